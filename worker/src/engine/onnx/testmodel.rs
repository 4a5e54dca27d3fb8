//! Tiny ONNX models for tests, encoded by hand: the few fields of `onnx.proto` that a graph needs.
//!
//! Field numbers and type codes are those of the ONNX project's `onnx.proto`.

use prost::Message;

pub const FLOAT: i32 = 1;
pub const INT64: i32 = 7;
pub const STRING: i32 = 8;
pub const FLOAT16: i32 = 10;

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
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
struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeProto>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<ValueInfo>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<AttributeProto>,
}

/// Only of a graph.
#[derive(Clone, PartialEq, Message)]
struct AttributeProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "6")]
    g: Option<GraphProto>,
    #[prost(int32, tag = "20")]
    r#type: i32,
}

const GRAPH: i32 = 5;

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
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
struct ValueInfo {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    r#type: Option<TypeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeProto {
    #[prost(message, optional, tag = "1")]
    tensor_type: Option<TensorType>,
    #[prost(message, optional, boxed, tag = "4")]
    sequence_type: Option<Box<SequenceType>>,
}

#[derive(Clone, PartialEq, Message)]
struct SequenceType {
    #[prost(message, optional, boxed, tag = "1")]
    elem_type: Option<Box<TypeProto>>,
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

#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(int64, optional, tag = "1")]
    value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    param: Option<String>,
}

/// A graph under construction.
#[derive(Default)]
pub struct TestModel(GraphProto);

impl TestModel {
    /// `shape`: numbers are fixed dimensions, other words name free ones; `None` leaves the rank open.
    pub fn input(mut self, name: &str, element: i32, shape: Option<&[&str]>) -> Self {
        self.0.input.push(value(name, tensor(element, shape)));
        self
    }

    pub fn output(mut self, name: &str, element: i32, shape: Option<&[&str]>) -> Self {
        self.0.output.push(value(name, tensor(element, shape)));
        self
    }

    pub fn sequence_input(mut self, name: &str, element: i32) -> Self {
        let sequence = TypeProto {
            sequence_type: Some(Box::new(SequenceType {
                elem_type: Some(Box::new(tensor(element, Some(&["n"])))),
            })),
            ..TypeProto::default()
        };
        self.0.input.push(value(name, sequence));
        self
    }

    /// An FP32 constant; with an input of the same name it is the default of that input.
    pub fn constant(mut self, name: &str, dims: &[i64], values: &[f32]) -> Self {
        self.0.initializer.push(TensorProto {
            dims: dims.to_vec(),
            data_type: FLOAT,
            name: name.to_owned(),
            raw_data: values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        });
        self
    }

    pub fn node(mut self, op_type: &str, inputs: &[&str], outputs: &[&str]) -> Self {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        self.0.node.push(NodeProto {
            input: owned(inputs),
            output: owned(outputs),
            op_type: op_type.to_owned(),
            attribute: Vec::new(),
        });
        self
    }

    /// The node that was added last runs this graph.
    pub fn running(mut self, attribute: &str, body: Self) -> Self {
        let graph = GraphProto {
            name: attribute.to_owned(),
            ..body.0
        };
        if let Some(node) = self.0.node.last_mut() {
            node.attribute.push(AttributeProto {
                name: attribute.to_owned(),
                g: Some(graph),
                r#type: GRAPH,
            });
        }
        self
    }

    pub fn encode(mut self) -> Vec<u8> {
        self.0.name = "test".to_owned();
        let model = ModelProto {
            ir_version: 8,
            graph: Some(self.0),
            opset_import: vec![OperatorSet {
                domain: String::new(),
                version: 16,
            }],
        };
        model.encode_to_vec()
    }
}

fn value(name: &str, r#type: TypeProto) -> ValueInfo {
    ValueInfo {
        name: name.to_owned(),
        r#type: Some(r#type),
    }
}

fn tensor(element: i32, shape: Option<&[&str]>) -> TypeProto {
    let dimension = |text: &&str| match text.parse() {
        Ok(value) => Dimension {
            value: Some(value),
            param: None,
        },
        Err(_) => Dimension {
            value: None,
            param: Some((*text).to_owned()),
        },
    };
    TypeProto {
        tensor_type: Some(TensorType {
            elem_type: element,
            shape: shape.map(|dims| Shape {
                dim: dims.iter().map(dimension).collect(),
            }),
        }),
        sequence_type: None,
    }
}
