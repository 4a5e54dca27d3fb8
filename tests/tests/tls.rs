//! TLS on both sides of the gateway: towards clients with ALPN, towards workers with verification.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use forebay_tests::client::{self, Inference, Rest, floats, json_request, output_floats};
use forebay_tests::folder;
use forebay_tests::folder::Folder;
use forebay_tests::gateway::Gateway;
use forebay_tests::process;
use forebay_tests::tls::Authority;
use forebay_tests::upstream::grpc::Upstream;
use forebay_tests::upstream::http::HttpUpstream;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::Code;
use tonic::transport::{Endpoint, Uri};
use tower::service_fn;

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];

async fn connect(
    authority: &Authority,
    address: SocketAddr,
    alpn: &str,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let stream = authority
        .connector(alpn)?
        .connect(ServerName::try_from("gateway.test")?, stream)
        .await?;
    anyhow::ensure!(
        stream.get_ref().1.alpn_protocol() == Some(alpn.as_bytes()),
        "ALPN did not agree on {alpn}"
    );
    Ok(stream)
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("UTF-8 path")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_listener_speaks_grpc_and_rest() -> anyhow::Result<()> {
    let authority = Authority::new()?;
    let folder = folder!()?;
    let (certificate, key) = authority.issue("gateway.test")?.write(&folder, "gateway")?;
    let upstream = Upstream::start("upstream").await?;
    let pages = HttpUpstream::start("pages").await?;
    let gateway = Gateway::start(
        &folder,
        &format!(
            "[[listeners]]\nname = 'secure'\naddress = '127.0.0.1:0'\n\
             tls = {{ certificate = '{}', key = '{}' }}\n\
             [[listeners]]\nname = 'plain'\naddress = '127.0.0.1:0'\n\
             [[routes]]\ncluster = 'workers'\n\
             [[routes]]\ncluster = 'pages'\nmatch = {{ path = '/headers' }}\n\
             [[clusters]]\nname = 'workers'\nendpoints = ['{}']\n\
             [[clusters]]\nname = 'pages'\nprotocol = 'http'\nendpoints = ['{}']\n",
            path(&certificate)?,
            path(&key)?,
            upstream.address,
            pages.address
        ),
    )?;
    gateway.all_healthy().await?;
    let (secure, plain) = (gateway.listeners[0], gateway.listeners[1]);

    let stream = connect(&authority, secure, "h2").await?;
    let stream = std::sync::Mutex::new(Some(TokioIo::new(stream)));
    let connector = service_fn(move |_: Uri| {
        let stream = stream.lock().ok().and_then(|mut stream| stream.take());
        async move { stream.ok_or_else(|| std::io::Error::other("one connection is enough")) }
    });
    let channel = Endpoint::from_static("http://gateway.test")
        .connect_with_connector(connector)
        .await?;
    let mut inference = Inference::new(channel);
    for _ in 0..3 {
        let answer = inference.model_infer(floats("m", &ROW)).await?;
        assert_eq!(output_floats(answer.get_ref())?, ROW);
    }
    let answers = inference
        .model_stream_infer(tokio_stream::iter([floats("m", &ROW)]))
        .await?;
    assert!(answers.into_inner().message().await?.is_some());

    let io = TokioIo::new(connect(&authority, secure, "http/1.1").await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    tokio::spawn(connection);
    for _ in 0..2 {
        let body = Full::new(Bytes::from(json_request(ROW, None).to_string()));
        let request = Request::post("/v2/models/m/infer")
            .header("host", "gateway.test")
            .body(body)?;
        let answer = sender.send_request(request).await?;
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await?;
        sender.ready().await?;
    }
    let request = Request::get("/headers")
        .header("host", "gateway.test")
        .body(Full::new(Bytes::new()))?;
    let page = sender
        .send_request(request)
        .await?
        .into_body()
        .collect()
        .await?
        .to_bytes();
    let headers: serde_json::Value = serde_json::from_slice(&page)?;
    assert_eq!(headers["x-forwarded-proto"], "https", "{headers}");

    let io = TokioIo::new(connect(&authority, secure, "h2").await?);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
    tokio::spawn(connection);
    let body = Full::new(Bytes::from(json_request(ROW, None).to_string()));
    let answer = sender
        .send_request(Request::post("https://gateway.test/v2/models/m/infer").body(body)?)
        .await?;
    assert_eq!(answer.status(), 200);

    // The plain listener beside it, and plain text on the secure one.
    assert_eq!(Rest::new(plain).infer("m", ROW).await?.floats()?, ROW);
    let refused = client::raw(
        secure,
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        Duration::from_secs(10),
    )
    .await?;
    assert!(!refused.starts_with(b"HTTP"), "{refused:?}");
    drop((inference, sender));
    gateway.all_idle().await
}

/// A gateway to one gRPC and one HTTP upstream over TLS, which have certificates for `worker.internal`.
struct Secured {
    gateway: Gateway,
    upstream: Upstream,
    pages: HttpUpstream,
    _folder: Folder,
}

async fn secured(trusted: bool, server_name: &str, health: &str) -> anyhow::Result<Secured> {
    let authority = Authority::new()?;
    let other = Authority::new()?;
    let folder = folder!()?;
    let ca = folder.write(
        "ca.pem",
        if trusted {
            authority.pem()
        } else {
            other.pem()
        },
    )?;
    let identity = authority.issue("worker.internal")?;
    let upstream = Upstream::start_with("upstream", Some(identity.acceptor()?)).await?;
    let pages = HttpUpstream::start_with("pages", Some(identity.acceptor()?)).await?;
    let tls = format!(
        "tls = {{ server_name = '{server_name}', ca = '{}' }}\n{health}",
        path(&ca)?
    );
    let gateway = Gateway::start(
        &folder,
        &format!(
            "[[listeners]]\naddress = '127.0.0.1:0'\n\
             [[routes]]\ncluster = 'workers'\n\
             [[routes]]\ncluster = 'pages'\nmatch = {{ path = {{ regex = '/(echo|headers)' }} }}\n\
             [[clusters]]\nname = 'workers'\nendpoints = ['{}']\n{tls}\n\
             [[clusters]]\nname = 'pages'\nprotocol = 'http'\nendpoints = ['{}']\n{tls}\n",
            upstream.address, pages.address
        ),
    )?;
    Ok(Secured {
        gateway,
        upstream,
        pages,
        _folder: folder,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_reached_over_verified_tls() -> anyhow::Result<()> {
    let Secured {
        gateway,
        upstream,
        pages,
        _folder,
    } = secured(true, "worker.internal", "").await?;
    // The health checks go over TLS too.
    gateway.all_healthy().await?;
    let mut inference = client::inference(gateway.address()).await?;
    assert_eq!(
        output_floats(inference.model_infer(floats("m", &ROW)).await?.get_ref())?,
        ROW
    );
    let answers = inference
        .model_stream_infer(tokio_stream::iter([floats("m", &ROW)]))
        .await?;
    assert!(answers.into_inner().message().await?.is_some());
    let rest = Rest::new(gateway.address());
    assert_eq!(rest.infer("m", ROW).await?.floats()?, ROW);
    assert_eq!(rest.post("/echo", "hello").await?.body, "hello");
    assert_eq!((upstream.infers(), pages.requests()), (3, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_cannot_prove_who_they_are_get_nothing() -> anyhow::Result<()> {
    for (trusted, name) in [
        (false, "worker.internal"),
        (true, "impostor.internal"),
        (true, "10.0.0.1"),
    ] {
        let Secured {
            gateway,
            upstream,
            pages,
            _folder,
        } = secured(trusted, name, "health = false\nbreaker = false").await?;
        let mut inference = client::inference(gateway.address()).await?;
        let status = inference
            .model_infer(floats("m", &ROW))
            .await
            .expect_err("the certificate is wrong");
        assert_eq!(status.code(), Code::Unavailable, "{name}: {status:?}");
        let status = inference
            .model_stream_infer(tokio_stream::iter([floats("m", &ROW)]))
            .await;
        assert_eq!(
            status.expect_err("the certificate is wrong").code(),
            Code::Unavailable,
            "{name}"
        );
        let rest = Rest::new(gateway.address());
        let answer = rest.infer("m", ROW).await?;
        assert_eq!(answer.status, 502, "{name}: {:?}", answer.body);
        let answer = rest.post("/echo", "secret").await?;
        assert_eq!(answer.status, 502, "{name}: {:?}", answer.body);
        assert!(
            answer.error()?.contains("pages"),
            "{name}: {:?}",
            answer.body
        );
        assert_eq!((upstream.infers(), pages.requests()), (0, 0), "{name}");
        gateway.all_idle().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unverified_worker_never_becomes_healthy() -> anyhow::Result<()> {
    let health = "health = { interval = '20ms' }";
    let Secured {
        gateway, upstream, ..
    } = secured(true, "impostor.internal", health).await?;
    let failing = |endpoints: &[serde_json::Value]| {
        endpoints
            .iter()
            .all(|endpoint| endpoint["health"] == "unhealthy")
    };
    gateway
        .until("unhealthy", Duration::from_secs(10), failing)
        .await?;
    assert_eq!(
        Rest::new(gateway.address()).infer("m", ROW).await?.status,
        503
    );
    assert_eq!(upstream.health_checks(), 0);
    Ok(())
}

#[test]
fn an_empty_server_name_is_refused() -> anyhow::Result<()> {
    let folder = folder!()?;
    let config = "[[listeners]]\naddress = '127.0.0.1:0'\n[[clusters]]\nname = 'workers'\n\
                  endpoints = ['127.0.0.1:1']\ntls = { server_name = '' }\n";
    let file = folder.write("gateway.toml", config)?;
    let ended = process::run(
        "forebay-gateway",
        &["--check", "--config", path(&file)?],
        Duration::from_secs(20),
    )?;
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains("clusters[0].tls.server_name"),
        "{ended:?}"
    );
    Ok(())
}

#[test]
fn keys_that_do_not_fit_are_named_at_the_start() -> anyhow::Result<()> {
    let authority = Authority::new()?;
    let folder = folder!()?;
    let (certificate, _) = authority.issue("gateway.test")?.write(&folder, "one")?;
    let (_, key) = authority.issue("gateway.test")?.write(&folder, "two")?;
    let text = folder.write("text.pem", "no certificate")?;
    for (certificate, key, named) in [
        (&certificate, &key, &key),
        (&text, &key, &text),
        (&certificate, &text, &text),
    ] {
        let config = format!(
            "[[listeners]]\nname = 'secure'\naddress = '127.0.0.1:0'\ntls = {{ certificate = '{}', key = '{}' }}\n\
             [[clusters]]\nname = 'workers'\nendpoints = ['127.0.0.1:1']\n",
            path(certificate)?,
            path(key)?
        );
        let file = folder.write("gateway.toml", config)?;
        let ended = process::run(
            "forebay-gateway",
            &["--config", path(&file)?],
            Duration::from_secs(20),
        )?;
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert!(
            ended.stderr.contains(path(named)?) && ended.stderr.contains("listeners[0].tls"),
            "{ended:?}"
        );
        assert!(!ended.stderr.contains("panicked"), "{ended:?}");
    }
    Ok(())
}
