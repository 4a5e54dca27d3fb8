//! REST: bodies in JSON and with binary tensors, compressed ones, large ones.

use std::io::Write;
use std::net::SocketAddr;

use anyhow::{Context, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use forebay_tests::client::{Answer, Rest};
use http::{Method, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{PATIENCE, ROW};

pub async fn documents(address: SocketAddr) -> anyhow::Result<()> {
    let rest = Rest::new(address);
    let tensor = |shape: &str, data: &str| {
        format!(r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":{shape},"data":{data}}}]}}"#)
    };
    let sound = tensor("[1,4]", "[1,2,3,4]");
    let bodies: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("no JSON", b"hello".to_vec()),
        ("half of it", sound.as_bytes()[..sound.len() / 2].to_vec()),
        ("no object", b"[1, 2, 3]".to_vec()),
        ("deep arrays", b"[".repeat(200_000)),
        ("deep objects", br#"{"a":"#.repeat(100_000)),
        (
            "deep data",
            tensor(
                "[1,4]",
                &format!("{}1{}", "[".repeat(50_000), "]".repeat(50_000)),
            )
            .into_bytes(),
        ),
        (
            "no UTF-8",
            [&b"{\"inputs\": \""[..], &[0xff, 0xfe], b"\"}"].concat(),
        ),
        (
            "overflow",
            tensor("[9223372036854775807, 4]", "[1]").into_bytes(),
        ),
        (
            "overflow to zero",
            tensor("[4611686018427387904, 4]", "[]").into_bytes(),
        ),
        (
            "beyond 64 bits",
            tensor("[92233720368547758079, 4]", "[1]").into_bytes(),
        ),
        ("negative", tensor("[-1, 4]", "[1,2,3,4]").into_bytes()),
        ("a fraction", tensor("[1.5, 4]", "[1,2,3,4]").into_bytes()),
        ("too few values", tensor("[1,4]", "[1,2,3]").into_bytes()),
        (
            "too many values",
            tensor("[1,4]", "[1,2,3,4,5]").into_bytes(),
        ),
        (
            "words",
            tensor("[1,4]", r#"["a","b","c","d"]"#).into_bytes(),
        ),
        (
            "a claim of a gigabyte",
            tensor("[67108864,4]", "[1]").into_bytes(),
        ),
        ("no inputs", br#"{"inputs":[]}"#.to_vec()),
        (
            "inputs twice",
            format!("{},{}", &sound[..sound.len() - 1], &sound[1..]).into_bytes(),
        ),
    ];
    for (what, body) in bodies {
        fault(
            what,
            rest.post("/v2/models/double/infer", body)
                .await
                .context(what)?,
            &[400],
        )?;
    }
    let binary = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"parameters":{"binary_data_size":SIZE}}]}"#;
    for (what, size, length) in [
        ("a size beyond the body", "1073741824", None),
        ("a negative size", "-16", None),
        ("a size beyond 64 bits", "99999999999999999999", None),
        ("a size too small", "15", None),
        ("no length", "16", Some("")),
        ("a length in words", "16", Some("ten")),
        ("a negative length", "16", Some("-1")),
        ("a length beyond the body", "16", Some("99999999999")),
        (
            "a length beyond 64 bits",
            "16",
            Some("99999999999999999999999"),
        ),
        ("a length within the JSON", "16", Some("10")),
    ] {
        let json = binary.replace("SIZE", size);
        let length = length.map_or(json.len().to_string(), str::to_owned);
        let builder = Request::builder().header("inference-header-content-length", length);
        let body = [json.as_bytes(), &[0; 16]].concat();
        fault(
            what,
            rest.send(builder, Method::POST, "/v2/models/double/infer", body)
                .await
                .context(what)?,
            &[400],
        )?;
    }
    let gzip = |body: &[u8]| -> anyhow::Result<Vec<u8>> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::best());
        packed.write_all(body)?;
        Ok(packed.finish()?)
    };
    let packed = gzip(sound.as_bytes())?;
    for (what, encoding, body, statuses) in [
        (
            "a bomb",
            "gzip",
            gzip(&vec![b' '; 64 << 20])?,
            &[413_u16][..],
        ),
        (
            "half a gzip",
            "gzip",
            packed[..packed.len() / 2].to_vec(),
            &[400],
        ),
        ("no gzip", "gzip", b"no gzip".to_vec(), &[400]),
        ("no zlib", "deflate", b"no zlib".to_vec(), &[400]),
        (
            "an unknown encoding",
            "br",
            packed.clone(),
            &[400, 415, 501],
        ),
    ] {
        let builder = Request::builder().header("content-encoding", encoding);
        fault(
            what,
            rest.send(builder, Method::POST, "/v2/models/double/infer", body)
                .await
                .context(what)?,
            statuses,
        )?;
    }
    for path in [
        "/v2/models/%ff%fe/infer",
        "/v2/models/%zz/infer",
        "/v2/models/..%2fdouble/infer",
        "/v2/models//infer",
    ] {
        fault(
            path,
            rest.post(path, sound.clone()).await.context(path)?,
            &[400, 404],
        )?;
    }
    for version in ["0", "-1", "one", "99999999999999999999", "%00"] {
        let path = format!("/v2/models/double/versions/{version}/infer");
        fault(
            &path,
            rest.post(&path, sound.clone()).await.context(version)?,
            &[400, 404],
        )?;
    }
    large(address).await?;
    // And what is right is still taken.
    ensure!(
        rest.post("/v2/models/double/infer", sound)
            .await?
            .floats()?
            == ROW.map(|value| value * 2.0)
    );
    Ok(())
}

/// Bodies beyond the limit, announced or not, are refused without being read to their end.
async fn large(address: SocketAddr) -> anyhow::Result<()> {
    let post = "POST /v2/models/double/infer HTTP/1.1\r\nhost: x\r\n";
    let answer = |bytes: Vec<u8>| async move {
        let answer = until_answered(address, &bytes).await?;
        anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let claim = answer(format!("{post}content-length: 1073741824\r\n\r\n{{").into_bytes())
        .await
        .context("1 GiB claimed")?;
    ensure!(claim.starts_with("HTTP/1.1 413"), "1 GiB claimed: {claim}");
    let mut chunked = format!("{post}transfer-encoding: chunked\r\n\r\n").into_bytes();
    for _ in 0..40 {
        chunked.extend_from_slice(b"10000\r\n");
        chunked.extend_from_slice(&[b' '; 65536]);
        chunked.extend_from_slice(b"\r\n");
    }
    let endless = answer(chunked).await.context("more and more")?;
    ensure!(
        endless.starts_with("HTTP/1.1 413"),
        "more and more: {endless}"
    );
    Ok(())
}

/// Writes as much as is taken and reads the beginning of an answer.
async fn until_answered(address: SocketAddr, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let (mut reader, mut writer) = TcpStream::connect(address).await?.into_split();
    let sending = async {
        let _ = writer.write_all(bytes).await;
        std::future::pending::<()>().await
    };
    let mut answer = vec![0; 4096];
    let length = tokio::select! {
        read = tokio::time::timeout(PATIENCE, reader.read(&mut answer)) => read.context("no answer")??,
        () = sending => 0,
    };
    answer.truncate(length);
    Ok(answer)
}

/// The sender's fault, and said so in JSON.
fn fault(what: &str, answer: Answer, statuses: &[u16]) -> anyhow::Result<()> {
    ensure!(
        statuses.contains(&answer.status.as_u16()),
        "{what}: {} {:?}",
        answer.status,
        answer.body
    );
    let error = answer.error().with_context(|| what.to_owned())?;
    ensure!(!error.is_empty() && error.len() < 4096, "{what}: {error}");
    Ok(())
}
