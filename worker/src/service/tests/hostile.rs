//! Wrong requests: each gets a status that says why, and the next caller an answer.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn hostile_bytes_get_a_status_and_the_next_caller_an_answer() {
    let bed = Bed::start().await;
    let good = request(&[1.0, 2.0]).encode_to_vec();
    let mut bad_utf8 = request(&[1.0, 2.0]);
    bad_utf8.model_name = "~".to_owned();
    let bad_utf8: Vec<u8> = bad_utf8
        .encode_to_vec()
        .iter()
        .map(|byte| if *byte == b'~' { 0xff } else { *byte })
        .collect();
    let claim = |length: u32| [&[0][..], &length.to_be_bytes(), b"x"].concat();
    let invalid = Code::InvalidArgument;
    let cases: [(&str, Vec<u8>, Code); 9] = [
        ("nothing", vec![], invalid),
        ("half a header", vec![0, 0], invalid),
        ("a message cut short", framed(&good)[..20].to_vec(), invalid),
        (
            "truncated protobuf",
            framed(&good[..good.len() - 3]),
            invalid,
        ),
        ("bad UTF-8", framed(&bad_utf8), invalid),
        ("noise", framed(&[0xff; 64]), invalid),
        ("a claim of 1 GiB", claim(1 << 30), Code::ResourceExhausted),
        (
            "a claim within the limit",
            claim(MAX_MESSAGE_BYTES as u32),
            invalid,
        ),
        (
            "two messages",
            [framed(&good), framed(&good)].concat(),
            invalid,
        ),
    ];
    for (what, body, want) in cases {
        let (code, message) = bed.raw(MODEL_INFER, &[], body).await;
        assert_eq!(code, want, "{what}: {message}");
        assert!(!message.is_empty(), "{what}");
    }
    assert_eq!(bed.raw(MODEL_INFER, &[], framed(&good)).await.0, Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_tensors_are_refused_and_the_neighbours_succeed() {
    let bed = Bed::start().await;
    let mut client = bed.client().await;
    let shapes: [&[i64]; 6] = [
        &[1 << 40, 1 << 40],
        &[-1, 2],
        &[1 << 62, 2],
        &[1, 3],
        &[2],
        &[i64::MAX, 2],
    ];
    for shape in shapes {
        let mut wrong = request(&[1.0, 2.0]);
        wrong.inputs[0].shape = shape.to_vec();
        let status = client.model_infer(wrong).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{shape:?}: {status}");
    }
    let (mut first, mut second, mut third) = (client.clone(), client.clone(), client);
    let (good, bad, failing) = tokio::join!(
        first.model_infer(request(&[1.0, 2.0])),
        second.model_infer(request(&[BAD, 2.0])),
        third.model_infer(request(&[FAIL, 2.0])),
    );
    assert!(good.is_ok());
    assert_eq!(bad.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(failing.unwrap_err().code(), Code::Internal);
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_messages_are_inflated_within_the_limit() {
    use std::io::Write;
    let bed = Bed::start().await;
    let gzip = |data: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        let mut message = framed(&encoder.finish().unwrap());
        message[0] = 1;
        message
    };
    let encoding = [("grpc-encoding", "gzip")];
    let good = gzip(&request(&[1.0, 2.0]).encode_to_vec());
    assert_eq!(
        bed.raw(MODEL_INFER, &encoding, good.clone()).await.0,
        Code::Ok
    );
    assert_eq!(
        bed.raw(MODEL_INFER, &[], good.clone()).await.0,
        Code::InvalidArgument
    );
    assert_eq!(
        bed.raw(MODEL_INFER, &[("grpc-encoding", "br")], good)
            .await
            .0,
        Code::Unimplemented
    );
    let bomb = gzip(&vec![0; MAX_MESSAGE_BYTES + 1]);
    assert_eq!(
        bed.raw(MODEL_INFER, &encoding, bomb).await.0,
        Code::ResourceExhausted
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_do_not_exist_are_unimplemented() {
    let bed = Bed::start().await;
    for path in ["/inference.GRPCInferenceService/Nope", "/x.Y/Z", "/"] {
        assert_eq!(
            bed.raw(path, &[], framed(&[])).await.0,
            Code::Unimplemented,
            "{path}"
        );
    }
    let status = bed
        .client()
        .await
        .cuda_shared_memory_register(wire::CudaSharedMemoryRegisterRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("CUDA shared memory"), "{status}");
}
