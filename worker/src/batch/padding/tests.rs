use bytes::Bytes;
use forebay_proto::tensor::DataType;

use super::*;

fn spec(name: &str, datatype: DataType, shape: &[i64]) -> TensorSpec {
    TensorSpec {
        name: name.to_owned(),
        datatype,
        shape: Some(shape.to_vec()),
        optional: false,
    }
}

fn signature() -> Signature {
    Signature {
        inputs: vec![
            spec("ids", DataType::Int64, &[-1, -1]),
            spec("style", DataType::Fp32, &[-1, 4]),
            spec("mask", DataType::Int64, &[-1, -1]),
            spec("words", DataType::Bytes, &[-1, -1]),
            TensorSpec {
                optional: true,
                ..spec("scale", DataType::Fp32, &[-1, -1])
            },
        ],
        outputs: vec![
            spec("pooled", DataType::Fp32, &[-1, 8]),
            spec("hidden", DataType::Fp32, &[-1, -1, 8]),
            spec("tags", DataType::Bytes, &[-1, -1]),
        ],
        batched: true,
    }
}

fn config(inputs: &[(&str, f64)], outputs: &[&str], buckets: &[u32]) -> Config {
    Config {
        inputs: inputs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect(),
        outputs: outputs.iter().map(|name| (*name).to_owned()).collect(),
        buckets: buckets.to_vec(),
    }
}

fn padding(buckets: &[u32], extent: Extent) -> Padding {
    let config = config(&[("ids", 1.0), ("mask", 0.0)], &["hidden"], buckets);
    Padding::new(&config, &signature(), extent).unwrap()
}

/// `ids` and `mask` of these shapes.
fn request(ids: &[i64], mask: &[i64]) -> InferRequest {
    let tensor = |shape: &[i64]| Tensor {
        datatype: DataType::Int64,
        shape: shape.to_vec(),
        data: Bytes::from(vec![0; 8 * shape.iter().product::<i64>() as usize]),
    };
    InferRequest {
        inputs: vec![(0, tensor(ids)), (2, tensor(mask))],
        outputs: vec![],
        rows: ids[0] as usize,
        deadline: None,
        priority: 0,
        trace: None,
    }
}

fn rows(rows: i64, length: i64) -> InferRequest {
    request(&[rows, length], &[rows, length])
}

#[test]
fn default_buckets_are_powers_of_two_and_the_halves_between() {
    let padding = padding(&[], Extent::Longest);
    for (length, bucket) in [
        (1, 16),
        (16, 16),
        (17, 24),
        (24, 24),
        (25, 32),
        (33, 48),
        (49, 64),
        (65, 96),
        (97, 128),
        (129, 192),
        (193, 256),
        (1025, 1536),
    ] {
        assert_eq!(padding.bucket(&rows(1, length)), Some(bucket), "{length}");
    }
}

#[test]
fn beyond_the_last_bucket_only_equals_go_together() {
    let padding = padding(&[8, 20], Extent::Longest);
    assert_eq!(padding.bucket(&rows(3, 8)), Some(8));
    assert_eq!(padding.bucket(&rows(1, 9)), Some(20));
    assert_eq!(padding.bucket(&rows(1, 21)), None);
}

#[test]
fn whoever_has_no_one_length_is_left_alone() {
    let padding = padding(&[], Extent::Longest);
    assert_eq!(padding.bucket(&request(&[1, 5], &[1, 6])), None);
    assert_eq!(padding.bucket(&rows(1, 0)), None);
    assert_eq!(padding.bucket(&request(&[1], &[1])), None);
    padding.abandon();
    assert_eq!(padding.bucket(&rows(1, 5)), None);
}

#[test]
fn rows_are_filled_up_to_the_longest_of_the_batch() {
    let padding = padding(&[], Extent::Longest);
    let (short, long) = (rows(1, 5), rows(2, 9));
    assert_eq!(padding.extent([&short, &long]), Some(9));
    assert_eq!(padding.extent([&short]), None, "alone");
    assert_eq!(padding.extent([&long, &long]), None, "among equals");
}

#[test]
fn fixed_shapes_are_those_of_the_buckets() {
    let padding = padding(&[8, 20], Extent::Bucket);
    assert_eq!(padding.extent([&rows(1, 5)]), Some(8));
    assert_eq!(padding.extent([&rows(1, 8)]), None);
    assert_eq!(padding.extent([&rows(1, 21)]), None);
}

#[test]
fn waste_counts_elements_of_filled_inputs() {
    let padding = padding(&[], Extent::Longest);
    let (short, long) = (rows(1, 5), rows(2, 9));
    // Two inputs of three rows of nine; the short row lacks four in both.
    let expected = Waste { filled: 8, all: 54 };
    assert_eq!(padding.waste([&short, &long], Some(9)), expected);
    assert_eq!(padding.waste([&short], None), Waste { filled: 0, all: 10 });
}

#[test]
fn the_signature_must_have_what_is_named() {
    for (inputs, outputs, part) in [
        (&[][..], &[][..], "names no input"),
        (
            &[("idz", 0.0)],
            &[],
            "one of ids, style, mask, words, scale",
        ),
        (&[("style", 0.0)], &[], "[-1, 4] has no length"),
        (
            &[("words", 0.0)],
            &[],
            "0 cannot be an element of type BYTES",
        ),
        (
            &[("ids", 0.5)],
            &[],
            "0.5 cannot be an element of type INT64",
        ),
        (&[("scale", 0.0)], &[], "has a default"),
        (&[("ids", 0.0)], &["hiden"], "one of pooled, hidden, tags"),
        (&[("ids", 0.0)], &["pooled"], "[-1, 8] has no length"),
        (&[("ids", 0.0)], &["tags"], "strings"),
    ] {
        let config = config(inputs, outputs, &[]);
        let error = Padding::new(&config, &signature(), Extent::Longest).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    let alone = Signature {
        batched: false,
        ..signature()
    };
    let error = Padding::new(&config(&[("ids", 0.0)], &[], &[]), &alone, Extent::Longest);
    assert!(error.unwrap_err().contains("batch axis"));
}
