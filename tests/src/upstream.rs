//! Stand-ins for workers, in the test's own process: they do what the test tells them.
//!
//! `grpc` is a tonic server of the Open Inference Protocol, `http` a plain HTTP/1.1 server. Both accept here, on a
//! port that the kernel chooses, and can be cut off at any moment and started again where they were.

pub mod grpc;
pub mod http;

use std::convert::Infallible;
use std::error::Error;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::{Request, Response};
use anyhow::Context;
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// How long connections may take to end.
const STOP: Duration = Duration::from_secs(5);
/// How long a port may still be taken.
const REBIND: Duration = Duration::from_secs(5);
const BACKLOG: u32 = 4096;

/// Accepts until it is stopped or dropped; then every connection is cut.
pub(crate) struct Listener {
    pub address: SocketAddr,
    accepting: AbortHandle,
    /// Held by what accepts and by every connection.
    alive: Arc<()>,
}

impl Listener {
    /// Listens on `address`, whose port may be 0.
    pub async fn start<H, F, B>(
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
        handler: H,
    ) -> anyhow::Result<Self>
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let listener = bind(address).await?;
        let address = listener.local_addr()?;
        let alive = Arc::new(());
        let held = alive.clone();
        let accepting = tokio::spawn(async move {
            // Dropped with this task, and every connection with it.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, handler, held) = (tls.clone(), handler.clone(), held.clone());
                connections.spawn(async move {
                    let _held = held;
                    // Without this small answers wait for the peer's acknowledgement.
                    let _ = stream.set_nodelay(true);
                    match tls {
                        None => serve(stream, handler).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, handler).await;
                            }
                        }
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            address,
            accepting: accepting.abort_handle(),
            alive,
        })
    }

    /// Returns when nothing is accepted and no connection is open any more; on a runtime of one thread, at once.
    pub fn stop(self) {
        let alive = self.alive.clone();
        drop(self);
        let runtime = Handle::try_current().map(|runtime| runtime.runtime_flavor());
        if !matches!(runtime, Ok(RuntimeFlavor::MultiThread)) {
            return;
        }
        tokio::task::block_in_place(|| {
            let end = Instant::now() + STOP;
            while Arc::strong_count(&alive) > 1 && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
    }
}

/// A listener that was stopped a moment ago has its port until its task has ended.
async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let end = Instant::now() + REBIND;
    loop {
        match listen(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            bound => return bound.with_context(|| format!("cannot listen on {address}")),
        }
    }
}

/// With room for as many connections at once as a test makes: the client of one that finds none tries again after a second.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve<S, H, F, B>(stream: S, handler: H)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let service = service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    // A peer that is gone is what many tests are about.
    let _ = builder
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
}
