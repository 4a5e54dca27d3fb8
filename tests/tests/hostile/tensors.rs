//! Messages that can be decoded and make no sense.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use bytes::Bytes;
use forebay_proto::inference::ModelInferRequest;
use forebay_tests::client::{self, floats, integers, request};
use forebay_tests::onnx::LOOKUP_ROWS;
use tonic::Code;

use crate::{PATIENCE, ROW};

pub async fn tensors(address: SocketAddr) -> anyhow::Result<()> {
    let mut inference = client::inference(address).await?;
    let sixteen = vec![0; 16];
    let of_shape =
        |shape: Vec<i64>, data: &[u8]| request("double", "x", "FP32", shape, data.to_vec());
    let mut two_raw = floats("double", &ROW);
    two_raw
        .raw_input_contents
        .push(Bytes::from_static(&[0; 16]));
    let mut twice = floats("double", &ROW);
    twice.inputs.push(twice.inputs[0].clone());
    twice
        .raw_input_contents
        .push(twice.raw_input_contents[0].clone());
    let mut none = floats("double", &ROW);
    none.raw_input_contents.clear();
    let mut no_inputs = floats("double", &ROW);
    no_inputs.inputs.clear();
    let requests: Vec<(&str, ModelInferRequest)> = vec![
        ("overflow", of_shape(vec![i64::MAX, 4], &sixteen)),
        ("overflow to zero", of_shape(vec![1 << 62, 4], &[])),
        ("overflow to zero in bytes", of_shape(vec![1 << 60, 4], &[])),
        ("negative", of_shape(vec![-1, 4], &sixteen)),
        ("most negative", of_shape(vec![i64::MIN, 4], &sixteen)),
        ("two negatives", of_shape(vec![-1, -4], &sixteen)),
        ("other columns", of_shape(vec![1, 5], &[0; 20])),
        ("other rank", of_shape(vec![4], &sixteen)),
        ("high rank", of_shape(vec![1; 100_000], &[0; 4])),
        ("no rank", of_shape(vec![], &[0; 4])),
        ("too few bytes", of_shape(vec![1, 4], &[0; 15])),
        ("too many bytes", of_shape(vec![1, 4], &[0; 17])),
        ("claims a gigabyte", of_shape(vec![1 << 26, 4], &sixteen)),
        (
            "beyond what is cut into batches",
            of_shape(vec![40_000, 4], &[0; 640_000]),
        ),
        (
            "other datatype",
            request("double", "x", "INT64", vec![1, 4], vec![0; 32]),
        ),
        (
            "strings",
            request("double", "x", "BYTES", vec![1, 4], vec![255; 16]),
        ),
        (
            "no datatype",
            request("double", "x", "FP33", vec![1, 4], vec![0; 16]),
        ),
        (
            "other name",
            request("double", "y", "FP32", vec![1, 4], vec![0; 16]),
        ),
        (
            "long name",
            request(
                "double",
                &"n".repeat(100_000),
                "FP32",
                vec![1, 4],
                vec![0; 16],
            ),
        ),
        ("two raw contents", two_raw),
        ("twice the same input", twice),
        ("no content", none),
        ("no inputs", no_inputs),
        ("no such model", floats("absent", &ROW)),
        ("a path as model", floats("../double", &ROW)),
        (
            "an index out of range",
            integers("lookup", "ids", &[LOOKUP_ROWS]),
        ),
        ("a huge index", integers("lookup", "ids", &[i64::MAX])),
        ("an index far below", integers("lookup", "ids", &[i64::MIN])),
    ];
    for (what, request) in requests {
        let answer = tokio::time::timeout(PATIENCE, inference.model_infer(request))
            .await
            .context(what)?;
        let status = answer
            .err()
            .with_context(|| format!("{what} was answered"))?;
        ensure!(
            matches!(
                status.code(),
                Code::InvalidArgument | Code::NotFound | Code::OutOfRange | Code::ResourceExhausted
            ),
            "{what}: {status:?}"
        );
    }
    Ok(())
}
