//! A server with a capacity that fails on command: for tests and measurements of what a gateway does about it.
//!
//! ```text
//! faulty-upstream [--listen 127.0.0.1:0] [--name u0] [--slots 64] [--service-ms 50] [--queue 1000] [--answer 1600]
//! ```
//!
//! It speaks HTTP/1.1 and gRPC over HTTP/2 without TLS, on one port. `--slots` requests are served at a time, `--queue`
//! more wait their turn, and what comes beyond is refused as a worker with a full queue refuses it. What is given up
//! by its caller leaves. It burns no CPU: service is a sleep.
//!
//! `GET /ctl?fault=errors&share=0.3` lets that share of requests fail at once (UNAVAILABLE, 503), `fault=broken` breaks
//! that share of answers off in the middle, `fault=none` ends it, and `slowness=20` multiplies the time of service.
//! `GET /stats` has counters, `GET /healthz` says ok as long as the process answers.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    Errors,
    Broken,
}

struct Server {
    name: HeaderValue,
    service: Duration,
    slots: Semaphore,
    queue: u64,
    answer: Bytes,
    control: Mutex<Control>,
    requests: AtomicU64,
    served: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    waiting: AtomicU64,
}

struct Control {
    fault: Fault,
    share: f64,
    slowness: f64,
}

enum Outcome {
    Served,
    /// The answer will break off.
    Broken,
    /// UNAVAILABLE.
    Failed,
    /// The queue is full.
    Full,
}

impl Server {
    async fn serve(&self) -> Outcome {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let (fault, slowness) = {
            let control = self.control.lock();
            let struck = fastrand::f64() < control.share;
            let fault = if struck { control.fault } else { Fault::None };
            (fault, control.slowness)
        };
        if fault == Fault::Errors {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return Outcome::Failed;
        }
        let slot = match self.slots.try_acquire() {
            Ok(slot) => slot,
            Err(_) => {
                let waiting = Waiting::enter(&self.waiting);
                if waiting.before >= self.queue {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    return Outcome::Full;
                }
                match self.slots.acquire().await {
                    Ok(slot) => slot,
                    Err(_) => return Outcome::Full,
                }
            }
        };
        tokio::time::sleep(self.service.mul_f64(slowness)).await;
        drop(slot);
        if fault == Fault::Broken {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return Outcome::Broken;
        }
        self.served.fetch_add(1, Ordering::Relaxed);
        Outcome::Served
    }

    fn page(&self, path: &str, query: &str) -> Option<String> {
        match path {
            "/healthz" => Some("ok\n".to_owned()),
            "/stats" => {
                let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
                Some(format!(
                    "{{\"requests\":{},\"served\":{},\"failed\":{},\"refused\":{}}}\n",
                    read(&self.requests),
                    read(&self.served),
                    read(&self.failed),
                    read(&self.refused)
                ))
            }
            "/ctl" => Some(match self.command(query) {
                Ok(()) => "ok\n".to_owned(),
                Err(error) => format!("{error:#}\n"),
            }),
            _ => None,
        }
    }

    fn command(&self, query: &str) -> anyhow::Result<()> {
        let mut control = self.control.lock();
        for pair in query.split('&') {
            match pair.split_once('=') {
                Some(("fault", "none")) => control.fault = Fault::None,
                Some(("fault", "errors")) => control.fault = Fault::Errors,
                Some(("fault", "broken")) => control.fault = Fault::Broken,
                Some(("share", share)) => control.share = share.parse()?,
                Some(("slowness", factor)) => control.slowness = factor.parse()?,
                _ => bail!("cannot do '{pair}'"),
            }
        }
        Ok(())
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Answer> {
        let uri = request.uri();
        if request.method() == http::Method::GET
            && let Some(page) = self.page(uri.path(), uri.query().unwrap_or_default())
        {
            return Response::new(Answer::of(page.into()));
        }
        let kind = request.headers().get(CONTENT_TYPE);
        let is_grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let mut body = request.into_body();
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                break;
            }
        }
        let outcome = self.serve().await;
        let mut response = if is_grpc {
            self.grpc(&outcome)
        } else {
            self.http(&outcome)
        };
        response
            .headers_mut()
            .insert("x-upstream", self.name.clone());
        response
    }

    fn http(&self, outcome: &Outcome) -> Response<Answer> {
        let mut answer = Answer::of(self.answer.clone());
        answer.breaks = matches!(outcome, Outcome::Broken);
        let mut response = Response::new(answer);
        if matches!(outcome, Outcome::Failed | Outcome::Full) {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            *response.body_mut() = Answer::of("no\n".into());
        }
        response
    }

    fn grpc(&self, outcome: &Outcome) -> Response<Answer> {
        let mut framed = vec![0];
        framed.extend(
            u32::try_from(self.answer.len())
                .unwrap_or(u32::MAX)
                .to_be_bytes(),
        );
        framed.extend_from_slice(&self.answer);
        let mut answer = Answer::of(framed.into());
        answer.breaks = matches!(outcome, Outcome::Broken);
        let status = |code| {
            HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                HeaderValue::from_static(code),
            )])
        };
        answer.trailers = Some(status("0"));
        let mut response = Response::new(answer);
        let refusal = match outcome {
            Outcome::Failed => Some("14"),
            Outcome::Full => Some("8"),
            Outcome::Served | Outcome::Broken => None,
        };
        if let Some(code) = refusal {
            *response.body_mut() = Answer::of(Bytes::new());
            response.headers_mut().extend(status(code));
            response
                .headers_mut()
                .insert("forebay-stage", HeaderValue::from_static("queued"));
        }
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response
    }
}

/// Counts one that waits for a slot.
struct Waiting<'a> {
    counter: &'a AtomicU64,
    before: u64,
}

impl<'a> Waiting<'a> {
    fn enter(counter: &'a AtomicU64) -> Self {
        let before = counter.fetch_add(1, Ordering::Relaxed);
        Self { counter, before }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A body of known length in one piece, or of which only half comes.
struct Answer {
    data: Option<Bytes>,
    breaks: bool,
    trailers: Option<HeaderMap>,
    length: u64,
}

impl Answer {
    fn of(data: Bytes) -> Self {
        Self {
            length: data.len() as u64,
            data: Some(data).filter(|data| !data.is_empty()),
            breaks: false,
            trailers: None,
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(mut data) = self.data.take() {
            if self.breaks {
                data.truncate(data.len() / 2);
                // Half of it goes out before the end is seen.
                context.waker().wake_by_ref();
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if self.breaks {
            return Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())));
        }
        Poll::Ready(
            self.trailers
                .take()
                .map(|trailers| Ok(Frame::trailers(trailers))),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none() && !self.breaks
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(if self.data.is_some() { self.length } else { 0 })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut name = "upstream".to_owned();
    let (mut slots, mut service, mut queue, mut answer) = (64, 50.0, 1000, 1600);
    let mut arguments = std::env::args().skip(1);
    while let Some(option) = arguments.next() {
        let value = arguments
            .next()
            .with_context(|| format!("{option} needs a value"))?;
        match option.as_str() {
            "--listen" => listen = value.parse()?,
            "--name" => name = value,
            "--slots" => slots = value.parse()?,
            "--service-ms" => service = value.parse()?,
            "--queue" => queue = value.parse()?,
            "--answer" => answer = value.parse()?,
            _ => bail!("there is no {option}: see the head of this program's source"),
        }
    }
    let server = Arc::new(Server {
        name: HeaderValue::from_str(&name)?,
        service: Duration::from_secs_f64(service / 1000.0),
        slots: Semaphore::new(slots),
        queue,
        answer: (0..answer)
            .map(|index: usize| b'a' + (index % 26) as u8)
            .collect(),
        control: Mutex::new(Control {
            fault: Fault::None,
            share: 0.0,
            slowness: 1.0,
        }),
        requests: AtomicU64::new(0),
        served: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        waiting: AtomicU64::new(0),
    });
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    println!("faulty-upstream listening {}", listener.local_addr()?);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let server = server.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let server = server.clone();
                async move { Ok::<_, Infallible>(server.answer(request).await) }
            });
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http1().timer(TokioTimer::new());
            builder
                .http2()
                .max_concurrent_streams(1000)
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(4 << 20);
            // Callers that go away are what this is for.
            let _ = builder
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
