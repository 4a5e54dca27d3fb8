//! Input that no client should send: refused as the sender's fault, in time, without harm to anyone else.
//!
//! The barrage goes to the gateway and straight to the worker, while honest clients use the same models. Their
//! requests share batches with the hostile ones and must all succeed; both processes must live, answer and stay
//! small.

mod documents;
mod frames;
mod tensors;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fastrand::Rng;
use forebay_proto::inference::ModelStatisticsRequest;
use forebay_tests::client::{self, Inference, Rest, floats, integers, output_floats, raw};
use forebay_tests::folder;
use forebay_tests::folder::Folder;
use forebay_tests::gateway::Gateway;
use forebay_tests::onnx::LOOKUP_ROWS;
use forebay_tests::wire::{INFER, Wire, frame};
use forebay_tests::worker::{Repository, Worker};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
/// Nothing hostile is dealt with for longer.
const PATIENCE: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_REQUEST: usize = 1 << 20;
/// By which a process may have grown in the end.
const GROWTH: u64 = 64 << 20;

struct Target {
    gateway: Gateway,
    worker: Worker,
    _folder: Folder,
    _repository: Repository,
}

async fn target() -> anyhow::Result<Target> {
    let repository = Repository::make(folder!()?)?;
    // Waiting a little makes batches of what arrives together.
    let worker = repository
        .serve_with("max_message_size = '1MiB'\n[defaults]\nmax_queue_delay = '5ms'\n")?;
    let folder = folder!()?;
    let gateway = Gateway::start(
        &folder,
        &format!(
            "[[listeners]]\naddress = '127.0.0.1:0'\nheader_timeout = '1s'\n\
             [[routes]]\ncluster = 'workers'\nmax_request_size = '1MiB'\n\
             [[routes]]\ncluster = 'workers'\nmax_request_size = '1MiB'\nmatch = {{ model = 'double' }}\n\
             [[clusters]]\nname = 'workers'\nendpoints = ['{}']\n",
            worker.grpc
        ),
    )?;
    gateway.all_healthy().await?;
    Ok(Target {
        gateway,
        worker,
        _folder: folder,
        _repository: repository,
    })
}

impl Target {
    /// Both still live, answer, and are no larger than allowed.
    async fn is_well(&mut self, memory: [u64; 2]) -> anyhow::Result<()> {
        ensure!(self.gateway.process.ended()?.is_none(), "the gateway ended");
        ensure!(self.worker.process.ended()?.is_none(), "the worker ended");
        for process in [&self.gateway.process, &self.worker.process] {
            ensure!(!process.stderr().contains("panicked"), "a thread panicked");
        }
        for address in [self.gateway.address(), self.worker.grpc] {
            let answer = client::inference(address)
                .await?
                .model_infer(floats("double", &ROW))
                .await?;
            ensure!(output_floats(answer.get_ref())? == ROW.map(|value| value * 2.0));
        }
        for address in [self.gateway.address(), self.worker.http] {
            let answer = Rest::new(address).infer("double", ROW).await?;
            ensure!(answer.floats()? == ROW.map(|value| value * 2.0));
        }
        self.gateway.all_idle().await?;
        for (name, (before, after)) in ["gateway", "worker"]
            .into_iter()
            .zip(memory.into_iter().zip(self.memory()?))
        {
            println!("{name}: {} MiB, then {} MiB", before >> 20, after >> 20);
            ensure!(
                after < before + GROWTH,
                "the {name} grew from {before} to {after} bytes"
            );
        }
        Ok(())
    }

    fn memory(&self) -> anyhow::Result<[u64; 2]> {
        Ok([
            self.gateway.process.memory()?,
            self.worker.process.memory()?,
        ])
    }
}

/// Honest clients that ask until they are stopped; every answer must be right.
struct Honest {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<tokio::task::JoinHandle<anyhow::Result<()>>>,
}

impl Honest {
    async fn start(addresses: [SocketAddr; 2]) -> anyhow::Result<Self> {
        let (stop, answered) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let mut clients = Vec::new();
        for (number, address) in addresses.into_iter().cycle().take(6).enumerate() {
            let mut inference = client::inference(address).await?;
            let (stop, answered, mut random) = (
                stop.clone(),
                answered.clone(),
                Rng::with_seed(number as u64),
            );
            clients.push(tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    ask(&mut inference, &mut random)
                        .await
                        .context("an honest client")?;
                    answered.fetch_add(1, Ordering::SeqCst);
                }
                Ok(())
            }));
        }
        Ok(Self {
            stop,
            answered,
            clients,
        })
    }

    /// How many requests were answered; an error if any was not.
    async fn finish(self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.await??;
        }
        Ok(self.answered.load(Ordering::SeqCst))
    }
}

async fn ask(inference: &mut Inference, random: &mut Rng) -> anyhow::Result<()> {
    if random.bool() {
        let row = [random.f32(), random.f32(), random.f32(), random.f32()];
        let answer =
            tokio::time::timeout(PATIENCE, inference.model_infer(floats("double", &row))).await??;
        ensure!(output_floats(answer.get_ref())? == row.map(|value| value * 2.0));
    } else {
        let index = random.i64(0..LOOKUP_ROWS);
        let answer = tokio::time::timeout(
            PATIENCE,
            inference.model_infer(integers("lookup", "ids", &[index])),
        )
        .await??;
        ensure!(output_floats(answer.get_ref())? == [index as f32; 4]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_barrage_harms_nobody() -> anyhow::Result<()> {
    let mut target = target().await?;
    let addresses = [target.gateway.address(), target.worker.grpc];
    // What a first round costs (buffers, connections, code paths) is no growth.
    barrage(&target).await?;
    let memory = target.memory()?;
    let honest = Honest::start(addresses).await?;
    for _ in 0..5 {
        barrage(&target).await?;
    }
    let answered = honest.finish().await?;
    assert!(answered > 100, "only {answered} honest requests");
    let statistics = ModelStatisticsRequest {
        name: "lookup".to_owned(),
        version: String::new(),
    };
    let statistics = client::inference(target.worker.grpc)
        .await?
        .model_statistics(statistics)
        .await?
        .into_inner();
    let lookup = statistics.model_stats.first().context("statistics")?;
    println!(
        "{answered} honest requests; {} rows in {} batches",
        lookup.inference_count, lookup.execution_count
    );
    assert!(
        lookup.batch_stats.iter().any(|batch| batch.batch_size > 1),
        "nothing was batched"
    );
    target.is_well(memory).await
}

async fn barrage(target: &Target) -> anyhow::Result<()> {
    let gateway = target.gateway.address();
    let (tensors, frames, documents) = tokio::join!(
        async {
            for address in [gateway, target.worker.grpc] {
                tensors::tensors(address)
                    .await
                    .with_context(|| format!("tensors to {address}"))?;
            }
            anyhow::Ok(())
        },
        async {
            for address in [gateway, target.worker.grpc] {
                frames::frames(address)
                    .await
                    .with_context(|| format!("frames to {address}"))?;
                frames::garbage(address)
                    .await
                    .with_context(|| format!("garbage to {address}"))?;
            }
            anyhow::Ok(())
        },
        async {
            for address in [gateway, target.worker.http] {
                documents::documents(address)
                    .await
                    .with_context(|| format!("documents to {address}"))?;
            }
            anyhow::Ok(())
        },
    );
    tensors.and(frames).and(documents)
}

#[tokio::test(flavor = "multi_thread")]
async fn short_slow_and_silent_clients_are_dealt_with_in_time() -> anyhow::Result<()> {
    let mut target = target().await?;
    let memory = target.memory()?;
    let address = target.gateway.address();
    // Eighteen bytes, fewer than the HTTP/2 preface, are a whole request.
    let start = Instant::now();
    let answer = raw(address, b"GET / HTTP/1.0\r\n\r\n", PATIENCE).await?;
    let text = String::from_utf8_lossy(&answer);
    assert!(
        text.starts_with("HTTP/1.") && text[8..].starts_with(" 4"),
        "{text}"
    );
    assert!(start.elapsed() < HEADER_TIMEOUT, "{:?}", start.elapsed());
    // Nor is it the worker's fault.
    assert_eq!(
        target.gateway.endpoint(target.worker.grpc).await?["failures"],
        0
    );
    let silent: [(&str, &[u8]); 4] = [
        ("nothing", b""),
        ("a part of the preface", b"PRI * HT"),
        ("a part of a request line", b"GET / HT"),
        ("a part of the headers", b"GET / HTTP/1.1\r\nhost: "),
    ];
    for (what, bytes) in silent {
        let start = Instant::now();
        let _ = raw(address, bytes, PATIENCE).await.context(what)?;
        let took = start.elapsed();
        assert!(
            took >= HEADER_TIMEOUT / 2 && took < 4 * HEADER_TIMEOUT,
            "{what}: {took:?}"
        );
    }
    target.is_well(memory).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_connection_that_asks_nothing_is_not_kept() -> anyhow::Result<()> {
    const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    // A HEADERS frame without END_HEADERS: `:method: GET`, and more is to come.
    const UNFINISHED: &[u8] = b"\x00\x00\x01\x01\x01\x00\x00\x00\x01\x82";
    let target = target().await?;
    let address = target.gateway.address();
    let cases = [
        ("headers without an end", [OPENING, UNFINISHED].concat()),
        ("settings and no request", OPENING.to_vec()),
        ("the preface alone", OPENING[..24].to_vec()),
    ];
    for (what, bytes) in cases {
        raw(address, &bytes, PATIENCE).await.context(what)?;
    }
    // One that has asked may stay a while.
    let wire = Wire::connect(address).await?;
    let body = frame(0, &floats("double", &ROW).encode_to_vec());
    ensure!(wire.call(INFER, body.clone(), &[]).await?.0 == Code::Ok);
    tokio::time::sleep(2 * HEADER_TIMEOUT).await;
    ensure!(wire.call(INFER, body, &[]).await?.0 == Code::Ok);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_byte_by_byte_does_not_hold_a_connection() -> anyhow::Result<()> {
    let target = target().await?;
    let (mut reader, mut writer) = TcpStream::connect(target.gateway.address())
        .await?
        .into_split();
    let dripping = async {
        let header = b"GET / HTTP/1.1\r\nx-slow: ".iter();
        for byte in header.chain(std::iter::repeat(&b'a')) {
            if writer.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(HEADER_TIMEOUT / 10).await;
        }
    };
    let mut answer = Vec::new();
    let closed = async {
        let _ = reader.read_to_end(&mut answer).await;
    };
    let start = Instant::now();
    let ended = tokio::time::timeout(PATIENCE, async {
        tokio::select! { () = closed => (), () = dripping => () }
    })
    .await;
    assert!(ended.is_ok(), "still open after {:?}", start.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_everywhere() -> anyhow::Result<()> {
    let mut target = target().await?;
    let memory = target.memory()?;
    let rows = MAX_REQUEST / 16 + 1;
    let large = floats("double", &vec![0.5; rows * 4]);
    for address in [target.gateway.address(), target.worker.grpc] {
        let status = client::inference(address)
            .await?
            .model_infer(large.clone())
            .await
            .err()
            .context("too large")?;
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    }
    for address in [target.gateway.address(), target.worker.http] {
        let answer = Rest::new(address)
            .post("/v2/models/double/infer", vec![b' '; MAX_REQUEST + 1])
            .await?;
        assert_eq!(answer.status, 413, "{:?}", answer.body);
    }
    target.is_well(memory).await
}
