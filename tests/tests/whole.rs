//! Requests to http clusters that are kept: whatever their size, an endpoint that fails costs a retry and no error.

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use forebay_tests::client::{Answer, Rest};
use forebay_tests::faulty::Faulty;
use forebay_tests::folder;
use forebay_tests::folder::Folder;
use forebay_tests::gateway::{Gateway, endpoints};
use forebay_tests::upstream::http::HttpUpstream;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(10);

/// More than pingora replays.
fn large() -> Bytes {
    (0..150_528_u32).map(|index| (index % 251) as u8).collect()
}

async fn gateway(
    addresses: impl IntoIterator<Item = std::net::SocketAddr>,
    route: &str,
) -> anyhow::Result<(Gateway, Folder)> {
    let folder = folder!()?;
    let gateway = Gateway::start(
        &folder,
        &format!(
            "[[listeners]]\naddress = '127.0.0.1:0'\n[[routes]]\ncluster = 'pages'\n{route}\n\
             [[clusters]]\nname = 'pages'\nprotocol = 'http'\npolicy = 'round_robin'\nbreaker = false\nendpoints = {}\n",
            endpoints(addresses)
        ),
    )?;
    gateway.all_healthy().await?;
    Ok((gateway, folder))
}

fn clients(gateway: &Gateway) -> [Rest; 2] {
    [Rest::new(gateway.address()), Rest::http2(gateway.address())]
}

fn ok(answer: Answer) -> anyhow::Result<Bytes> {
    ensure!(answer.status == StatusCode::OK, "{answer:?}");
    ensure!(answer.header("x-forebay-endpoint").is_some(), "{answer:?}");
    Ok(answer.body)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_that_fails_costs_no_client_an_error() -> anyhow::Result<()> {
    let servers = [Faulty::start(&[])?, Faulty::start(&[])?];
    let addresses = servers.iter().map(|server| server.address);
    let (gateway, _folder) = gateway(addresses, "mode = 'unary'").await?;
    for fault in ["errors", "broken"] {
        servers[0]
            .control(&format!("fault={fault}&share=1"))
            .await?;
        for client in clients(&gateway) {
            for body in [large(), Bytes::from_static(b"small"), Bytes::new()] {
                assert_eq!(ok(client.post("/infer", body).await?)?.len(), 1600);
            }
        }
        assert!(servers[0].count("failed").await? > 0, "{fault} was met");
        servers[0].control("fault=none").await?;
    }
    gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_repeated_is_not() -> anyhow::Result<()> {
    for (route, method, status) in [
        (
            "mode = 'unary'\nretry = { idempotent = false }",
            Method::POST,
            StatusCode::BAD_GATEWAY,
        ),
        (
            "mode = 'unary'\nretry = { idempotent = false }",
            Method::PUT,
            StatusCode::OK,
        ),
        ("mode = 'auto'", Method::POST, StatusCode::BAD_GATEWAY),
        ("mode = 'auto'", Method::PUT, StatusCode::OK),
        (
            "mode = 'unary'\nretry = false",
            Method::PUT,
            StatusCode::BAD_GATEWAY,
        ),
    ] {
        let servers = [Faulty::start(&[])?, Faulty::start(&[])?];
        servers[0].control("fault=broken&share=1").await?;
        let addresses = servers.iter().map(|server| server.address);
        let (gateway, _folder) = gateway(addresses, route).await?;
        let client = Rest::new(gateway.address());
        let mut worst = StatusCode::OK;
        for _ in 0..4 {
            let answer = client
                .send(Request::builder(), method.clone(), "/infer", large())
                .await?;
            worst = worst.max(answer.status);
        }
        assert_eq!(worst, status, "{route} {method}");
        // An error of UNAVAILABLE's kind was not begun, and is repeated all the same.
        servers[0].control("fault=errors").await?;
        for _ in 0..4 {
            let answer = client
                .send(Request::builder(), method.clone(), "/infer", large())
                .await?;
            let refused = route.ends_with("retry = false") && answer.status.as_u16() == 503;
            assert!(
                refused || answer.status == StatusCode::OK,
                "{route} {method}: {answer:?}"
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_died_idle_is_replaced() -> anyhow::Result<()> {
    let mut pages = HttpUpstream::start("pages").await?;
    let (gateway, _folder) = gateway([pages.address], "").await?;
    let client = Rest::new(gateway.address());
    for _ in 0..3 {
        assert_eq!(ok(client.post("/echo", large()).await?)?, large());
        pages.stop();
        let again = async {
            // The port is free once the former listener is gone.
            while pages.restart().await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, again).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_http_allows_arrives_as_it_was() -> anyhow::Result<()> {
    let pages = HttpUpstream::start("pages").await?;
    let (gateway, _folder) = gateway(
        [pages.address],
        "mode = 'unary'\nmax_request_size = '200KiB'",
    )
    .await?;
    for client in clients(&gateway) {
        let answer = client.post("/echo", large()).await?;
        assert_eq!(answer.header("x-upstream"), Some("pages"));
        assert_eq!(answer.header("content-length"), Some("150528"));
        assert_eq!(ok(answer)?, large());
        assert_eq!(
            ok(client.get("/chunks/3").await?)?,
            "chunk 0\nchunk 1\nchunk 2\n"
        );
        let head = client
            .send(Request::builder(), Method::HEAD, "/chunks/3", "")
            .await?;
        assert!(
            head.status == StatusCode::OK && head.body.is_empty(),
            "{head:?}"
        );
        for status in [204, 404, 500, 503] {
            let answer = client.get(&format!("/status/{status}")).await?;
            assert_eq!(answer.status.as_u16(), status);
            assert_eq!(answer.body.is_empty(), status == 204, "{answer:?}");
        }
        let seen = client
            .send(
                Request::builder()
                    .header("x-own", "1")
                    .header("te", "trailers"),
                Method::POST,
                "/headers",
                "abc",
            )
            .await?
            .json()?;
        assert_eq!(seen["x-own"], "1", "{seen}");
        assert_eq!(seen["content-length"], "3", "{seen}");
        assert!(
            seen["host"].is_string() && seen["x-forwarded-for"].is_string(),
            "{seen}"
        );
        assert!(
            seen.get("te").is_none() && seen.get("transfer-encoding").is_none(),
            "{seen}"
        );
    }
    // Over HTTP/1 the refusal may be lost with the connection.
    let [_, client] = clients(&gateway);
    let answer = client.post("/echo", vec![0; 201 << 10]).await?;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    // In pieces, after leave to send them; and what comes next on the same connection.
    let mut stream = TcpStream::connect(gateway.address()).await?;
    let head = "POST /echo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let leave = "HTTP/1.1 100 Continue\r\n\r\n";
    let mut answer = vec![0; leave.len()];
    tokio::time::timeout(SOON, stream.read_exact(&mut answer)).await??;
    assert_eq!(answer, leave.as_bytes());
    let rest = "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\nGET /status/200 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let (first, second) = rest.split_at(rest.find("GET").context("the second request")?);
    stream.write_all(first.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nabcde") {
        answer.push(tokio::time::timeout(SOON, stream.read_u8()).await??);
    }
    stream.write_all(second.as_bytes()).await?;
    tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await??;
    let answer = String::from_utf8(answer)?;
    assert!(answer.ends_with("status 200"), "{answer}");
    gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_events_is_none_the_less_a_stream() -> anyhow::Result<()> {
    let pages = HttpUpstream::start("pages").await?;
    let (gateway, _folder) = gateway([pages.address], "").await?;
    for client in clients(&gateway) {
        let answer = client
            .open(Request::builder(), Method::POST, "/events", large())
            .await?;
        let mut body = answer.into_body();
        for event in ["one", "two"] {
            pages.push(event)?;
            let frame = tokio::time::timeout(SOON, body.frame())
                .await?
                .context("an event")??;
            assert_eq!(
                frame.into_data().ok().context("data")?,
                format!("data: {event}\n\n")
            );
        }
        pages.end_events();
        assert!(
            tokio::time::timeout(SOON, body.collect())
                .await??
                .to_bytes()
                .is_empty()
        );
    }
    gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_its_request_with_it() -> anyhow::Result<()> {
    let pages = HttpUpstream::start("pages").await?;
    let (gateway, _folder) = gateway([pages.address], "mode = 'unary'").await?;
    for client in clients(&gateway) {
        let call = tokio::spawn(async move { client.get("/held").await });
        pages.until_active(|active| *active == 1).await?;
        call.abort();
        assert!(call.await.is_err());
        pages.until_active(|active| *active == 0).await?;
    }
    gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_given_up_in_time() -> anyhow::Result<()> {
    let pages = HttpUpstream::start("pages").await?;
    let route =
        "mode = 'unary'\ntimeout = '600ms'\nretry = { attempts = 2, per_try_timeout = '200ms' }";
    let (gateway, _folder) = gateway([pages.address], route).await?;
    let started = std::time::Instant::now();
    let answer = Rest::new(gateway.address()).post("/held", large()).await?;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT, "{answer:?}");
    assert!(
        (400..2000).contains(&started.elapsed().as_millis()),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(pages.requests(), 2);
    gateway.all_idle().await
}
