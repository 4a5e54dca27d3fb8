use super::*;
use crate::inference::TensorSpec;

fn signature(batched: bool) -> Signature {
    let spec = |name: &str, datatype, optional| TensorSpec {
        name: name.to_owned(),
        datatype,
        shape: Some(vec![-1, 2]),
        optional,
    };
    Signature {
        inputs: vec![
            spec("a", DataType::Int64, false),
            spec("b", DataType::Fp32, false),
            spec("c", DataType::Fp32, true),
        ],
        outputs: vec![
            spec("y", DataType::Fp32, false),
            spec("z", DataType::Fp32, false),
        ],
        batched,
    }
}

fn input(name: &str, datatype: DataType, content: Content) -> SampleInput {
    SampleInput {
        name: name.to_owned(),
        datatype,
        dims: vec![2],
        content,
    }
}

fn sample(inputs: Vec<SampleInput>) -> Sample {
    Sample {
        name: "w".to_owned(),
        batch_size: 3,
        count: 1,
        inputs,
    }
}

fn made(sample: &Sample, files: &[(&str, &[u8])]) -> Result<InferRequest, String> {
    let files = files
        .iter()
        .map(|(name, bytes)| ((*name).to_owned(), Bytes::copy_from_slice(bytes)));
    sample.request(&signature(true), &Reshapes::default(), &files.collect())
}

#[test]
fn a_sample_becomes_a_request_of_its_rows() {
    let sample = sample(vec![
        input("b", DataType::Fp32, Content::File("b.raw".to_owned())),
        input("a", DataType::Int64, Content::Random),
    ]);
    let request = made(&sample, &[("b.raw", &[1, 2, 3, 4, 5, 6, 7, 8])]).unwrap();
    assert_eq!((request.rows, request.outputs), (3, vec![0, 1]));
    let [(0, a), (1, b)] = &request.inputs[..] else {
        panic!("two inputs, by index: {:?}", request.inputs);
    };
    assert_eq!(b.shape, [3, 2]);
    assert_eq!(b.data, [1_u8, 2, 3, 4, 5, 6, 7, 8].repeat(3));
    let numbers: Vec<i64> = a
        .data
        .chunks(8)
        .map(|chunk| i64::from_le_bytes(chunk.try_into().unwrap()))
        .collect();
    assert_eq!(numbers.len(), 6);
    assert!(
        numbers.iter().all(|number| (0..=1).contains(number)),
        "{numbers:?}"
    );
    assert!(numbers.contains(&1), "{numbers:?}");
}

#[test]
fn what_does_not_fit_is_told() {
    let a = || input("a", DataType::Int64, Content::Zero);
    let b = || input("b", DataType::Fp32, Content::Zero);
    let mut huge = b();
    huge.dims = vec![1 << 40, 1 << 40];
    for (inputs, reason) in [
        (vec![a()], "model_warmup 'w' has no input 'b'"),
        (
            vec![a(), b(), input("d", DataType::Fp32, Content::Zero)],
            "has input 'd', which the model has not",
        ),
        (
            vec![a(), input("b", DataType::Fp64, Content::Zero)],
            "has FP64 for input 'b', the model expects FP32",
        ),
        (
            vec![
                a(),
                input("b", DataType::Fp32, Content::File("b.raw".to_owned())),
            ],
            "expects 8 bytes for input 'b', but the file 'b.raw' has 3",
        ),
        (vec![a(), huge], "is too large in input 'b'"),
    ] {
        let told = made(&sample(inputs), &[("b.raw", &[1, 2, 3])]).unwrap_err();
        assert!(told.contains(reason), "{told}");
    }
}
