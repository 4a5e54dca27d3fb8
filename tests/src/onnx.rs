//! Tiny ONNX models, encoded by hand, so that the real worker can be tested without downloading any.
//!
//! Field numbers are those of the ONNX format (`onnx.proto`); only what the models need is declared.

use std::path::Path;

use anyhow::Context;
use forebay_proto::tensor::DataType;
use prost::Message;

const FLOAT: i32 = 1;
const INT64: i32 = 7;
const BOOL: i32 = 9;
/// Rows of the table that `lookup` gathers from; indices beyond are errors at run time.
pub const LOOKUP_ROWS: i64 = 8;
const COLUMNS: i64 = 4;

/// `x` FP32 `[batch, 4]` → `y` = `x` + `x`.
pub fn double() -> Vec<u8> {
    let shape = [free("batch"), fixed(COLUMNS)];
    model(Graph {
        node: vec![node("Add", &["x", "x"], &["y"])],
        input: vec![value("x", FLOAT, &shape)],
        output: vec![value("y", FLOAT, &shape)],
        ..Graph::named("double")
    })
}

/// `x` FP32 `[batch, 4]` → `y` = `x` + `amount`.
pub fn add(amount: f32) -> Vec<u8> {
    let shape = [free("batch"), fixed(COLUMNS)];
    model(Graph {
        node: vec![node("Add", &["x", "amount"], &["y"])],
        initializer: vec![Tensor {
            dims: vec![1],
            data_type: FLOAT,
            name: "amount".to_owned(),
            raw_data: amount.to_le_bytes().to_vec(),
        }],
        input: vec![value("x", FLOAT, &shape)],
        output: vec![value("y", FLOAT, &shape)],
        ..Graph::named("add")
    })
}

/// `x` of this datatype `[batch, n]` → `y`, which is `x`.
pub fn echo(datatype: DataType) -> Vec<u8> {
    let shape = [free("batch"), free("n")];
    let element = element(datatype);
    model(Graph {
        node: vec![node("Identity", &["x"], &["y"])],
        input: vec![value("x", element, &shape)],
        output: vec![value("y", element, &shape)],
        ..Graph::named("echo")
    })
}

/// `ids` INT64 `[batch, 1]` → `rows` FP32 `[batch, 1, 4]`, where row `i` of the table is four times `i`. An index
/// of [`LOOKUP_ROWS`] or more fails at run time, and with it the whole batch.
pub fn lookup() -> Vec<u8> {
    let table = (0..LOOKUP_ROWS).flat_map(|row| [row as f32; COLUMNS as usize]);
    model(Graph {
        node: vec![node("Gather", &["table", "ids"], &["rows"])],
        initializer: vec![Tensor {
            dims: vec![LOOKUP_ROWS, COLUMNS],
            data_type: FLOAT,
            name: "table".to_owned(),
            raw_data: table.flat_map(f32::to_le_bytes).collect(),
        }],
        input: vec![value("ids", INT64, &[free("batch"), fixed(1)])],
        output: vec![value(
            "rows",
            FLOAT,
            &[free("batch"), fixed(1), fixed(COLUMNS)],
        )],
        ..Graph::named("lookup")
    })
}

/// `n` INT64 `[batch, 1]` → `y` = `n` plus the largest `n` of the batch, counted up one by one in a loop: as slow
/// as the caller wants.
pub fn count() -> Vec<u8> {
    let column = [free("batch"), fixed(1)];
    let body = Graph {
        node: vec![
            node("Identity", &["go"], &["go_on"]),
            node("Add", &["sum", "one"], &["next"]),
        ],
        initializer: vec![Tensor {
            dims: vec![1],
            data_type: INT64,
            name: "one".to_owned(),
            raw_data: 1_i64.to_le_bytes().to_vec(),
        }],
        input: vec![
            value("turn", INT64, &[]),
            value("go", BOOL, &[]),
            value("sum", INT64, &column),
        ],
        output: vec![value("go_on", BOOL, &[]), value("next", INT64, &column)],
        ..Graph::named("body")
    };
    let mut most = node("ReduceMax", &["n"], &["most"]);
    most.attribute.push(Attribute {
        name: "keepdims".to_owned(),
        i: Some(0),
        g: None,
        kind: 2,
    });
    let mut turns = node("Loop", &["most", "", "n"], &["y"]);
    turns.attribute.push(Attribute {
        name: "body".to_owned(),
        i: None,
        g: Some(body),
        kind: 5,
    });
    model(Graph {
        node: vec![most, turns],
        input: vec![value("n", INT64, &column)],
        output: vec![value("y", INT64, &column)],
        ..Graph::named("count")
    })
}

/// `x` FP32 `[batch, 4]` → `y` FP32 `[]`: the largest of all, so no row is treated by itself.
pub fn largest() -> Vec<u8> {
    let mut most = node("ReduceMax", &["x"], &["y"]);
    most.attribute.push(Attribute {
        name: "keepdims".to_owned(),
        i: Some(0),
        g: None,
        kind: 2,
    });
    model(Graph {
        node: vec![most],
        input: vec![value("x", FLOAT, &[free("batch"), fixed(COLUMNS)])],
        output: vec![value("y", FLOAT, &[])],
        ..Graph::named("largest")
    })
}

/// Writes a version of a model below `repository`, as programs should that have others read while they write.
pub fn write_version(
    repository: &Path,
    name: &str,
    version: u64,
    model: &[u8],
) -> anyhow::Result<()> {
    let folder = repository.join(name).join(version.to_string());
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let beside = folder.join(".model.onnx.new");
    std::fs::write(&beside, model).with_context(|| format!("cannot write model {name}"))?;
    std::fs::rename(&beside, folder.join("model.onnx")).context("cannot rename")
}

/// Writes the three models as a repository below `folder`.
pub fn write_repository(folder: &Path) -> anyhow::Result<()> {
    for (name, model) in [
        ("double", double()),
        ("lookup", lookup()),
        ("count", count()),
    ] {
        write_version(folder, name, 1, &model)?;
    }
    Ok(())
}

fn model(graph: Graph) -> Vec<u8> {
    let operators = OperatorSet {
        domain: String::new(),
        version: 13,
    };
    Model {
        ir_version: 8,
        producer_name: "forebay-tests".to_owned(),
        graph: Some(graph),
        opset_import: vec![operators],
    }
    .encode_to_vec()
}

/// As ONNX numbers its element types.
fn element(datatype: DataType) -> i32 {
    match datatype {
        DataType::Fp32 => FLOAT,
        DataType::Uint8 => 2,
        DataType::Int8 => 3,
        DataType::Uint16 => 4,
        DataType::Int16 => 5,
        DataType::Int32 => 6,
        DataType::Int64 => INT64,
        DataType::Bytes => 8,
        DataType::Bool => BOOL,
        DataType::Fp16 => 10,
        DataType::Fp64 => 11,
        DataType::Uint32 => 12,
        DataType::Uint64 => 13,
        DataType::Bf16 => 16,
    }
}

fn node(operator: &str, input: &[&str], output: &[&str]) -> Node {
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Node {
        input: own(input),
        output: own(output),
        name: format!("{operator}-{}", output.join("-")),
        op_type: operator.to_owned(),
        attribute: Vec::new(),
    }
}

fn value(name: &str, element: i32, shape: &[Dimension]) -> Value {
    let shape = Some(Shape {
        dim: shape.to_vec(),
    });
    let tensor = Some(TensorType {
        elem_type: element,
        shape,
    });
    Value {
        name: name.to_owned(),
        kind: Some(Type {
            tensor_type: tensor,
        }),
    }
}

fn free(name: &str) -> Dimension {
    Dimension {
        dim_value: None,
        dim_param: Some(name.to_owned()),
    }
}

fn fixed(size: i64) -> Dimension {
    Dimension {
        dim_value: Some(size),
        dim_param: None,
    }
}

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(string, tag = "2")]
    producer_name: String,
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<OperatorSet>,
}

#[derive(Clone, PartialEq, Message)]
struct OperatorSet {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Node>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<Value>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<Value>,
}

impl Graph {
    fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int64, optional, tag = "3")]
    i: Option<i64>,
    #[prost(message, optional, tag = "6")]
    g: Option<Graph>,
    /// 2: an integer. 5: a graph.
    #[prost(int32, tag = "20")]
    kind: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw_data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    kind: Option<Type>,
}

#[derive(Clone, PartialEq, Message)]
struct Type {
    #[prost(message, optional, tag = "1")]
    tensor_type: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(int32, tag = "1")]
    elem_type: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<Dimension>,
}

/// One of both, as in the format's oneof.
#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(int64, optional, tag = "1")]
    dim_value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    dim_param: Option<String>,
}
