//! Bytes instead of messages: over a sound HTTP/2 connection, and where not even that is sound.

use std::io::Write;
use std::net::SocketAddr;

use anyhow::{Context, ensure};
use bytes::Bytes;
use fastrand::Rng;
use flate2::Compression;
use flate2::write::GzEncoder;
use forebay_tests::client::{floats, raw};
use forebay_tests::wire::{INFER, Wire, frame};
use prost::Message;
use tonic::Code;

use crate::{MAX_REQUEST, PATIENCE, ROW};

/// Bytes instead of messages, over a sound HTTP/2 connection.
pub async fn frames(address: SocketAddr) -> anyhow::Result<()> {
    let whole = floats("double", &ROW).encode_to_vec();
    let mut bad_name = whole.clone();
    // Field 1, six bytes: the model's name.
    ensure!(
        bad_name.starts_with(&[10, 6]),
        "the message begins with the model's name"
    );
    bad_name[2..8].copy_from_slice(&[0xff, 0xfe, 0xc0, 0x80, 0xed, 0xa0]);
    let group = [&whole[..], &[0x0b, 0x0c]].concat();
    let nested: Vec<u8> = std::iter::repeat_n([0x2a, 0x7f], 5000).flatten().collect();
    let random: Vec<u8> = {
        let mut random = Rng::with_seed(5);
        (0..2000).map(|_| random.u8(..)).collect()
    };
    let mut bodies: Vec<(String, Bytes)> = vec![
        ("an empty body".to_owned(), Bytes::new()),
        (
            "half a frame header".to_owned(),
            Bytes::from_static(&[0, 0, 0]),
        ),
        (
            "a gigabyte claimed".to_owned(),
            Bytes::from_static(&[0, 0x40, 0, 0, 0, 1, 2, 3]),
        ),
        (
            "four gigabytes claimed".to_owned(),
            Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]),
        ),
        (
            "an unknown flag".to_owned(),
            [&[7, 0, 0, 0, 0][..], &[]].concat().into(),
        ),
        ("compressed with nothing".to_owned(), frame(1, &whole)),
        (
            "two messages".to_owned(),
            [frame(0, &whole), frame(0, &whole)].concat().into(),
        ),
        (
            "bad UTF-8 in the model's name".to_owned(),
            frame(0, &bad_name),
        ),
        ("a group".to_owned(), frame(0, &group)),
        ("broken nesting".to_owned(), frame(0, &nested)),
        ("an endless varint".to_owned(), frame(0, &[0xff; 64])),
        (
            "a field of a gigabyte".to_owned(),
            frame(0, &[0x3a, 0x80, 0x80, 0x80, 0x80, 0x04]),
        ),
        ("random bytes".to_owned(), frame(0, &random)),
        (
            "more than is allowed".to_owned(),
            frame(0, &vec![0; MAX_REQUEST + 1]),
        ),
    ];
    bodies.extend(
        (1..whole.len())
            .step_by(3)
            .map(|end| (format!("truncated to {end}"), frame(0, &whole[..end]))),
    );
    let client = Wire::connect(address).await?;
    for (what, body) in bodies {
        let (code, message) = client
            .call(INFER, body, &[])
            .await
            .with_context(|| what.clone())?;
        let fault = matches!(
            code,
            Code::InvalidArgument
                | Code::NotFound
                | Code::ResourceExhausted
                | Code::Unimplemented
                | Code::OutOfRange
        );
        ensure!(fault, "{what}: {code:?} {message}");
        if what == "more than is allowed" {
            ensure!(
                code == Code::ResourceExhausted,
                "{what}: {code:?} {message}"
            );
        }
    }
    let headers = [("grpc-encoding", "gzip")];
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(&vec![0; 64 << 20])?;
    let bomb = frame(1, &bomb.finish()?);
    let (code, message) = client.call(INFER, bomb, &headers).await.context("a bomb")?;
    ensure!(
        matches!(code, Code::ResourceExhausted | Code::InvalidArgument),
        "a bomb: {code:?} {message}"
    );
    let (code, message) = client
        .call(INFER, frame(1, b"no gzip"), &headers)
        .await
        .context("no gzip")?;
    ensure!(code == Code::InvalidArgument, "no gzip: {code:?} {message}");
    let answer = client
        .call(INFER, frame(1, &whole), &[("grpc-encoding", "zstd-2")])
        .await?;
    ensure!(
        matches!(answer.0, Code::Unimplemented | Code::InvalidArgument),
        "{answer:?}"
    );
    // The connection has outlived it all.
    ensure!(client.call(INFER, frame(0, &whole), &[]).await?.0 == Code::Ok);
    Ok(())
}

/// What is not even HTTP. The connection may be closed or answered, but not kept.
pub async fn garbage(address: SocketAddr) -> anyhow::Result<()> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    let mut random = Rng::with_seed(6);
    let noise: Vec<u8> = (0..4096).map(|_| random.u8(..)).collect();
    let after_settings: [(&str, &[u8]); 7] = [
        ("a frame of 16 MiB", &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]),
        (
            "headers that cannot be unpacked",
            &[0, 0, 4, 1, 5, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff],
        ),
        ("data without a stream", &[0, 0, 1, 0, 1, 0, 0, 0, 1, 7]),
        (
            "a stream of the server's",
            &[0, 0, 1, 1, 5, 0, 0, 0, 2, 0x82],
        ),
        (
            "a window beyond its limit",
            &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff],
        ),
        (
            "settings of odd length",
            &[0, 0, 5, 4, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0],
        ),
        (
            "a continuation of nothing",
            &[0, 0, 1, 9, 4, 0, 0, 0, 1, 0x82],
        ),
    ];
    for (what, bytes) in after_settings {
        let answer = raw(address, &[PREFACE, SETTINGS, bytes].concat(), PATIENCE)
            .await
            .context(what)?;
        // GOAWAY is frame type 7.
        let goaway = answer.chunks(1).count() >= 9 && answer.windows(9).any(|frame| frame[3] == 7);
        ensure!(goaway || answer.len() <= 64, "{what}: {answer:?}");
    }
    for (what, bytes) in [
        ("noise", noise.clone()),
        ("noise after the preface", [PREFACE, &noise].concat()),
    ] {
        raw(address, &bytes, PATIENCE).await.context(what)?;
    }
    Ok(())
}
