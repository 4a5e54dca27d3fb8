//! The way out: whoever asks first is told to go elsewhere, whoever is being served is served to the end.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use forebay_proto::inference::ServerReadyRequest;
use forebay_tests::client::{
    self, Rest, floats, integers, json_request, output_floats, output_integers,
};
use forebay_tests::folder;
use forebay_tests::gateway::Gateway;
use forebay_tests::upstream::grpc::{Behaviour, Upstream};
use forebay_tests::upstream::http::HttpUpstream;
use forebay_tests::worker::Repository;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
const SOON: Duration = Duration::from_secs(10);

async fn until_refused(address: SocketAddr) -> anyhow::Result<()> {
    let end = Instant::now() + SOON;
    while TcpStream::connect(address).await.is_ok() {
        ensure!(Instant::now() < end, "{address} still accepts");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_finishes_what_it_has_begun() -> anyhow::Result<()> {
    let upstream = Upstream::start("upstream").await?;
    let pages = HttpUpstream::start("pages").await?;
    let folder = folder!()?;
    let mut gateway = Gateway::start(
        &folder,
        &format!(
            "drain_delay = '700ms'\n[[listeners]]\naddress = '127.0.0.1:0'\n\
             [[routes]]\ncluster = 'workers'\n\
             [[routes]]\ncluster = 'pages'\nmatch = {{ path = '/held' }}\n\
             [[clusters]]\nname = 'workers'\nendpoints = ['{}']\n\
             [[clusters]]\nname = 'pages'\nprotocol = 'http'\nendpoints = ['{}']\n",
            upstream.address, pages.address
        ),
    )?;
    gateway.all_healthy().await?;
    let address = gateway.address();
    assert_eq!(gateway.admin("/readyz").await?, "ready\n");
    upstream.always(Behaviour::Held);
    let grpc = tokio::spawn(async move {
        let answer = client::inference(address)
            .await?
            .model_infer(floats("m", &ROW))
            .await?;
        output_floats(answer.get_ref())
    });
    let stream = tokio::spawn(async move {
        let requests = tokio_stream::iter([floats("m", &ROW)]);
        let answers = client::inference(address)
            .await?
            .model_stream_infer(requests)
            .await?;
        anyhow::Ok(answers.into_inner().message().await?.is_some())
    });
    let rest = Rest::new(address);
    let over_rest = tokio::spawn({
        let rest = rest.clone();
        async move { rest.infer("m", ROW).await?.floats() }
    });
    let page = tokio::spawn(async move { rest.get("/held").await });
    upstream.until_active(|active| *active == 3).await?;
    pages.until_active(|active| *active == 1).await?;
    // A connection that nobody uses keeps nobody waiting.
    let _idle = client::channel(address).await?;

    gateway.process.signal("TERM")?;
    gateway.process.until_stderr("draining", 1, SOON)?;
    // First it is merely not ready; whoever still comes is served.
    assert_eq!(gateway.admin("/readyz").await?, "not ready\n");
    assert_eq!(gateway.admin("/healthz").await?, "ok\n");
    let late = client::inference(address)
        .await?
        .server_live(forebay_proto::inference::ServerLiveRequest {})
        .await?;
    assert!(late.get_ref().live);
    until_refused(address).await?;
    ensure!(
        gateway.process.ended()?.is_none(),
        "ended with requests in flight"
    );
    upstream.release();
    pages.release();
    assert_eq!(grpc.await??, ROW);
    assert!(stream.await??);
    assert_eq!(over_rest.await??, ROW);
    assert_eq!(page.await??.body, "released");
    assert_eq!(gateway.process.wait(SOON)?.code(), Some(0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_gateway_leaves_at_once() -> anyhow::Result<()> {
    let upstream = Upstream::start("upstream").await?;
    let folder = folder!()?;
    let config = format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n[[clusters]]\nname = 'workers'\nendpoints = ['{}']\n",
        upstream.address
    );
    for signal in ["TERM", "INT"] {
        let mut gateway = Gateway::start(&folder, &config)?;
        gateway.all_healthy().await?;
        let rest = Rest::new(gateway.address());
        assert_eq!(rest.infer("m", ROW).await?.floats()?, ROW);
        gateway.process.signal(signal)?;
        let status = gateway.process.wait(Duration::from_secs(5))?;
        assert_eq!(status.code(), Some(0), "{signal}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_holds_the_gateway_for_ever() -> anyhow::Result<()> {
    let upstream = Upstream::start("upstream").await?;
    let folder = folder!()?;
    let config = |timeout: &str| {
        format!(
            "drain_timeout = '{timeout}'\n[[listeners]]\naddress = '127.0.0.1:0'\n\
             [[clusters]]\nname = 'workers'\nendpoints = ['{}']\n",
            upstream.address
        )
    };
    let mut gateway = Gateway::start(&folder, &config("1h"))?;
    gateway.all_healthy().await?;
    gateway.reload(&config("1s"), 1)?;
    upstream.always(Behaviour::Never);
    let mut inference = client::inference(gateway.address()).await?;
    let call = tokio::spawn(async move { inference.model_infer(floats("m", &ROW)).await });
    upstream.until_active(|active| *active == 1).await?;
    let start = Instant::now();
    gateway.process.signal("TERM")?;
    assert_eq!(gateway.process.wait(SOON)?.code(), Some(0));
    assert!(
        (900..6000).contains(&start.elapsed().as_millis()),
        "{:?}",
        start.elapsed()
    );
    assert!(call.await?.is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_finishes_what_it_has_begun() -> anyhow::Result<()> {
    let repository = Repository::make(folder!()?)?;
    let mut worker = repository.serve()?;
    let mut inference = client::inference(worker.grpc).await?;
    // Long enough to be under way when the signal comes, short enough to wait for.
    const TURNS: i64 = 300_000;
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let mut inference = inference.clone();
            tokio::spawn(async move {
                output_integers(
                    inference
                        .model_infer(integers("count", "n", &[TURNS]))
                        .await?
                        .get_ref(),
                )
            })
        })
        .collect();
    let over_rest = tokio::spawn({
        let (rest, row) = (Rest::new(worker.http), json_request(ROW, None).to_string());
        async move { rest.post("/v2/models/double/infer", row).await?.floats() }
    });
    assert_eq!(over_rest.await??, ROW.map(|value| value * 2.0));
    assert!(
        inference
            .server_ready(ServerReadyRequest {})
            .await?
            .get_ref()
            .ready
    );
    worker.process.signal("TERM")?;
    until_refused(worker.grpc).await?;
    until_refused(worker.http).await?;
    assert!(
        worker.process.ended()?.is_none(),
        "ended with inferences under way"
    );
    for call in calls {
        assert_eq!(call.await??, [2 * TURNS]);
    }
    drop(inference);
    assert_eq!(worker.process.wait(SOON)?.code(), Some(0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_drains_sends_clients_elsewhere() -> anyhow::Result<()> {
    let repository = Repository::make(folder!()?)?;
    let (mut leaving, staying) = (repository.serve()?, repository.serve()?);
    let folder = folder!()?;
    let gateway = Gateway::start(
        &folder,
        &format!(
            "[[listeners]]\naddress = '127.0.0.1:0'\n[[clusters]]\nname = 'workers'\npolicy = 'round_robin'\n\
             endpoints = ['{}', '{}']\n",
            leaving.grpc, staying.grpc
        ),
    )?;
    gateway.all_healthy().await?;
    let load = tokio::spawn(forebay_tests::load::open_loop(
        100,
        Duration::from_secs(2),
        {
            let inference = client::inference(gateway.address()).await?;
            move |_| {
                let mut inference = inference.clone();
                async move {
                    let answer = inference.model_infer(floats("double", &ROW)).await?;
                    ensure!(output_floats(answer.get_ref())? == ROW.map(|value| value * 2.0));
                    Ok(())
                }
            }
        },
    ));
    let both = |endpoints: &[serde_json::Value]| {
        endpoints.iter().all(|endpoint| endpoint["requests"] != 0)
    };
    gateway.until("both are used", SOON, both).await?;
    leaving.process.signal("TERM")?;
    assert_eq!(leaving.process.wait(SOON)?.code(), Some(0));
    let report = load.await?;
    assert!(report.errors.is_empty(), "{report:?}");
    gateway.all_idle().await
}

/// Not ready first, and nothing else; then the last answer on each connection says so; then the end.
#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_to_go_before_they_are_left() -> anyhow::Result<()> {
    let upstream = Upstream::start("upstream").await?;
    let pages = HttpUpstream::start("pages").await?;
    let folder = folder!()?;
    let mut gateway = Gateway::start(
        &folder,
        &format!(
            "drain_delay = '500ms'\n[[listeners]]\naddress = '127.0.0.1:0'\n\
             [[routes]]\ncluster = 'workers'\n\
             [[routes]]\ncluster = 'pages'\nmatch = {{ path = {{ prefix = '/held' }} }}\n\
             [[routes]]\ncluster = 'pages'\nmatch = {{ path = {{ prefix = '/echo' }} }}\n\
             [[clusters]]\nname = 'workers'\nendpoints = ['{}']\n\
             [[clusters]]\nname = 'pages'\nprotocol = 'http'\nendpoints = ['{}']\n",
            upstream.address, pages.address
        ),
    )?;
    gateway.all_healthy().await?;
    let address = gateway.address();
    let infer = json_request(ROW, None).to_string();
    let ask = |path: &str, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    // Two that are kept, one of each data path; two that have a request under way; HTTP/2 busy and idle.
    let mut kept = Vec::new();
    for request in [ask("/v2/models/m/infer", &infer), ask("/echo", "hello")] {
        let mut connection = TcpStream::connect(address).await?;
        assert!(
            exchange(&mut connection, &request)
                .await?
                .contains("connection: keep-alive")
        );
        kept.push((connection, request));
    }
    let mut waiting = Vec::new();
    upstream.always(Behaviour::Held);
    for request in [ask("/v2/models/m/infer", &infer), ask("/held", "")] {
        let mut connection = TcpStream::connect(address).await?;
        connection.write_all(request.as_bytes()).await?;
        waiting.push(connection);
    }
    let (idle, idle_connection) = h2::client::handshake(TcpStream::connect(address).await?).await?;
    let idle_ends = tokio::spawn(idle_connection);
    let mut inference = client::inference(address).await?;
    let busy = tokio::spawn(async move { inference.model_infer(floats("m", &ROW)).await });
    upstream.until_active(|active| *active == 2).await?;
    pages.until_active(|active| *active == 1).await?;

    gateway.process.signal("TERM")?;
    gateway.process.until_stderr("draining", 1, SOON)?;
    assert_eq!(gateway.admin("/readyz").await?, "not ready\n");
    let (connection, request) = &mut kept[1];
    let answer = exchange(connection, request).await?;
    assert!(
        answer.contains("connection: keep-alive"),
        "not yet: {answer}"
    );
    until_refused(address).await?;
    // The connection without a request is told by GOAWAY, and ends in peace.
    tokio::time::timeout(SOON, idle_ends).await???;
    let error = idle.ready().await.err().context("the connection is over")?;
    assert_eq!(error.reason(), Some(h2::Reason::NO_ERROR), "{error}");
    upstream.always(Behaviour::Answer);
    for (connection, request) in &mut kept {
        let answer = exchange(connection, request).await?;
        assert!(answer.contains("connection: close"), "{answer}");
        assert_eq!(connection.read(&mut [0]).await?, 0, "closed after it");
    }
    assert!(gateway.process.ended()?.is_none());
    upstream.release();
    pages.release();
    for connection in &mut waiting {
        let answer = exchange(connection, "").await?;
        assert!(
            answer.starts_with("http/1.1 200") && answer.contains("connection: close"),
            "{answer}"
        );
    }
    assert!(busy.await?.is_ok());
    assert_eq!(gateway.process.wait(SOON)?.code(), Some(0));
    Ok(())
}

/// Sends a request and reads an answer that says how long it is; its head in small letters, and its body.
async fn exchange(connection: &mut TcpStream, request: &str) -> anyhow::Result<String> {
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let reading = async {
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(connection.read_u8().await?);
        }
        let head = String::from_utf8(answer)?.to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .with_context(|| head.clone())?;
        let mut body = vec![0; length.parse()?];
        connection.read_exact(&mut body).await?;
        Ok(head + &String::from_utf8_lossy(&body))
    };
    tokio::time::timeout(SOON, reading).await?
}
