//! The program is replaced while it runs: no connection is refused, reset, or closed without notice.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use forebay_tests::client::{self, Rest, floats, json_request};
use forebay_tests::folder;
use forebay_tests::folder::Folder;
use forebay_tests::gateway::Gateway;
use forebay_tests::load::{open_loop, rate};
use forebay_tests::process;
use forebay_tests::strict::{KeepAlive, Multiplexed};
use forebay_tests::upstream::grpc::Upstream;
use forebay_tests::upstream::http::HttpUpstream;
use forebay_tests::wire::{INFER, frame};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
const SOON: Duration = Duration::from_secs(10);
const UPGRADES: usize = 2;

struct Site {
    gateway: Gateway,
    upstream: Upstream,
    pages: HttpUpstream,
    /// Names of sockets are short, and folders for tests may be anywhere.
    short: Folder,
    folder: Folder,
}

impl Site {
    async fn start() -> anyhow::Result<Self> {
        let upstream = Upstream::start("upstream").await?;
        let pages = HttpUpstream::start("pages").await?;
        let temporary = std::env::temp_dir();
        let short = Folder::make(temporary.to_str().context("UTF-8 path")?)?;
        let folder = folder!()?;
        let config = config(&short.join("upgrade"), upstream.address, pages.address, "");
        let gateway = Gateway::start(&folder, &config)?;
        gateway.all_healthy().await?;
        Ok(Self {
            gateway,
            upstream,
            pages,
            short,
            folder,
        })
    }

    fn door(&self) -> PathBuf {
        self.short.join("upgrade")
    }

    async fn serves(&self) -> anyhow::Result<()> {
        let answer = Rest::new(self.gateway.address()).infer("m", ROW).await?;
        ensure!(answer.floats()? == ROW);
        Ok(())
    }
}

fn config(door: &std::path::Path, workers: SocketAddr, pages: SocketAddr, more: &str) -> String {
    format!(
        "upgrade_socket = '{}'\ndrain_timeout = '20s'\n\
         [[listeners]]\nname = 'public'\naddress = '127.0.0.1:0'\n{more}\
         [[routes]]\ncluster = 'workers'\n\
         [[routes]]\ncluster = 'pages'\nmatch = {{ path = '/echo' }}\n\
         [[routes]]\ncluster = 'pages'\nmatch = {{ path = '/socket' }}\n\
         [[clusters]]\nname = 'workers'\nendpoints = ['{workers}']\n\
         [[clusters]]\nname = 'pages'\nprotocol = 'http'\nendpoints = ['{pages}']\n",
        door.display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_notices_an_upgrade() -> anyhow::Result<()> {
    let site = Site::start().await?;
    let address = site.gateway.address();
    let (calls, pages) = (
        Arc::new(Multiplexed::new(address, 4)),
        Arc::new(KeepAlive::new(address)),
    );
    let message = frame(0, &floats("m", &ROW).encode_to_vec());
    let json = Bytes::from(json_request(ROW, None).to_string());
    let load = tokio::spawn(open_loop(
        rate(400),
        Duration::from_secs(5),
        move |number| {
            let (calls, pages) = (calls.clone(), pages.clone());
            let (message, json) = (message.clone(), json.clone());
            async move {
                let infer = "/v2/models/m/infer";
                match number % 4 {
                    0 => {
                        let answer = calls.call(number as usize / 4, INFER, message).await;
                        ensure!(answer.context("gRPC")?.len() > 5);
                    }
                    1 => drop(pages.post(infer, json).await.context("REST")?),
                    2 => drop(pages.post_once(infer, json).await.context("once")?),
                    _ => {
                        let echoed = pages.post("/echo", "hello").await.context("page")?;
                        ensure!(echoed == "hello", "{echoed:?}");
                    }
                }
                Ok(())
            }
        },
    ));
    // What is open for long stays with the process that it began with.
    let mut socket = websocket(address).await?;
    let (requests, incoming) = tokio::sync::mpsc::channel(1);
    let incoming = tokio_stream::wrappers::ReceiverStream::new(incoming);
    let mut inference = client::inference(address).await?;
    requests.send(floats("m", &ROW)).await?;
    let mut answers = inference.model_stream_infer(incoming).await?.into_inner();
    assert!(answers.message().await?.is_some());

    let mut former = Vec::new();
    let mut current = site.gateway;
    for _ in 0..UPGRADES {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let next = current.successor()?;
        assert_eq!(
            (next.address(), next.admin),
            (address, current.admin),
            "the sockets are the same"
        );
        current.process.until_stderr("taken over", 1, SOON)?;
        former.push(std::mem::replace(&mut current, next));
        assert_eq!(current.admin("/readyz").await?, "ready\n");
    }
    let report = load.await?;
    println!("{report:?}");
    assert!(report.errors.is_empty(), "{report:?}");
    // All but the pages, and one message of the stream.
    let asked = report.calls - report.calls / 4 + 1;
    assert_eq!(site.upstream.infers(), asked as u64, "each is asked once");
    // The first has still the socket and the stream, and leaves when they end.
    former[1].process.wait(SOON)?;
    assert!(former[0].process.ended()?.is_none());
    socket.write_all(b"world").await?;
    let mut echo = [0; 5];
    tokio::time::timeout(SOON, socket.read_exact(&mut echo)).await??;
    assert_eq!(&echo, b"world");
    requests.send(floats("m", &ROW)).await?;
    assert!(answers.message().await?.is_some());
    drop((socket, requests));
    assert!(answers.message().await?.is_none());
    drop((answers, inference));
    for gateway in &mut former {
        assert_eq!(gateway.process.wait(SOON)?.code(), Some(0));
    }
    current.all_idle().await?;
    // And the last one stops as any other.
    current.process.signal("TERM")?;
    assert_eq!(current.process.wait(SOON)?.code(), Some(0));
    assert!(!site.short.join("upgrade").exists());
    Ok(())
}

/// One that has echoed something.
async fn websocket(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let ask = "GET /socket HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
               sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
    // pingora closes one in many right after the handshake.
    for _ in 0..5 {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(ask.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tokio::time::timeout(SOON, stream.read_u8()).await??);
        }
        ensure!(head.starts_with(b"HTTP/1.1 101"), "{head:?}");
        stream.write_all(b"hello").await?;
        let mut echo = [0; 5];
        let read = tokio::time::timeout(SOON, stream.read_exact(&mut echo)).await?;
        if read.is_ok() && &echo == b"hello" {
            return Ok(stream);
        }
    }
    anyhow::bail!("no socket")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_cannot_start_changes_nothing() -> anyhow::Result<()> {
    let site = Site::start().await?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let (workers, pages) = (site.upstream.address, site.pages.address);
    let another = format!(
        "[[listeners]]\nname = 'second'\naddress = '{}'\n",
        taken.local_addr()?
    );
    let right = config(&site.door(), workers, pages, "");
    let cases: [(String, &[&str], &str); 5] = [
        (
            right.replace("'public'", "'public'\nport = 1"),
            &["--upgrade"],
            "listeners[0].port",
        ),
        (
            config(&site.door(), workers, pages, &another),
            &["--upgrade"],
            "listener 'second'",
        ),
        (right.clone(), &[], "start with --upgrade"),
        (
            config(&site.short.join("elsewhere"), workers, pages, ""),
            &["--upgrade"],
            "start without --upgrade",
        ),
        (
            right.lines().skip(1).collect::<Vec<_>>().join("\n"),
            &["--upgrade"],
            "'upgrade_socket'",
        ),
    ];
    for (config, arguments, says) in cases {
        let file = site.folder.write("next.toml", &config)?;
        let file = file.to_str().context("UTF-8 path")?;
        let arguments = [&["--config", file], arguments].concat();
        let ended = process::run("forebay-gateway", &arguments, SOON)?;
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert!(ended.stderr.contains(says), "{says}: {ended:?}");
        site.serves().await?;
    }
    let nothing = "an upgrade came to nothing, this gateway goes on";
    site.gateway.process.until_stderr(nothing, 1, SOON)?;
    assert_eq!(site.gateway.admin("/readyz").await?, "ready\n");
    let next = site.gateway.successor()?;
    assert_eq!(next.address(), site.gateway.address());
    site.serves().await
}
