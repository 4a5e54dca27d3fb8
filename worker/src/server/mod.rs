//! Accepts connections, serves HTTP on them, and drains.
//!
//! Draining means: the listener is closed, every connection is told to open no further streams (GOAWAY on
//! HTTP/2, no keep-alive on HTTP/1), and what is in flight is finished until the limit is over.

mod bodies;
mod body;
mod deflate;
mod gather;
mod inflate;
pub mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

pub use bodies::{Bodies, NoRoom, Share};
pub use body::Body;
pub use deflate::{WORTH_COMPRESSING, deflate};
pub use gather::Gathered;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
pub use inflate::{Encoding, InflateError, UnknownEncoding, inflate};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Tensors outgrow HTTP/2's default of 64 KiB by far.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
const MAX_FRAME: u32 = 128 << 10;
const MAX_CONCURRENT_STREAMS: u32 = 4_096;
/// A client that is gone without a word is noticed after an interval and a timeout.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(60);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// For a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failed accept (no file descriptors left, for example).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocols {
    /// HTTP/2 with prior knowledge, which is what gRPC clients speak.
    Http2,
    /// HTTP/1.1, or HTTP/2 with prior knowledge.
    Any,
}

/// Answers requests on one listener until it is drained.
pub struct Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    protocols: Protocols,
    drain: watch::Receiver<bool>,
    drain_timeout: Duration,
}

impl Server {
    /// `drain` turns true once, when draining shall begin.
    pub async fn bind(
        address: SocketAddr,
        protocols: Protocols,
        drain: watch::Receiver<bool>,
        drain_timeout: Duration,
    ) -> std::io::Result<Server> {
        Ok(Server {
            listener: TcpListener::bind(address).await?,
            tls: None,
            protocols,
            drain,
            drain_timeout,
        })
    }

    /// Connections begin with a handshake, if there is an acceptor.
    pub fn with_tls(self, tls: Option<TlsAcceptor>) -> Server {
        Server { tls, ..self }
    }

    /// Where it listens; the port that the kernel chose when 0 was asked for.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until drained; the number of connections that were cut off with requests in flight.
    pub async fn run<H, F>(self, handler: H) -> usize
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let Server {
            listener,
            tls,
            protocols,
            mut drain,
            drain_timeout,
        } = self;
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = draining(&mut drain) => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let begun = begin(stream, tls.clone());
                        connections.spawn(connection(begun, protocols, handler.clone(), drain.clone()));
                    }
                    Err(error) => {
                        tracing::warn!("cannot accept a connection: {error}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
            }
        }
        drop(listener);
        let finish = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(drain_timeout, finish).await.is_ok() {
            return 0;
        }
        let cut_off = connections.len();
        connections.shutdown().await;
        cut_off
    }
}

/// Returns when draining has begun, or can no longer begin.
pub async fn draining(drain: &mut watch::Receiver<bool>) {
    if drain.wait_for(|begun| *begun).await.is_err() {
        tracing::debug!("nobody is left to ask for draining");
    }
}

/// A connection that requests can be read from.
enum Begun {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Ends the wait for a handshake; None: there will be no connection.
async fn begin(stream: TcpStream, tls: Option<TlsAcceptor>) -> Option<Begun> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("cannot disable Nagle's algorithm: {error}");
    }
    let Some(tls) = tls else {
        return Some(Begun::Plain(stream));
    };
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => Some(Begun::Tls(Box::new(stream))),
        Ok(Err(error)) => {
            tracing::debug!("TLS handshake failed: {error}");
            None
        }
        Err(_) => {
            tracing::debug!("TLS handshake took longer than {HANDSHAKE_TIMEOUT:?}");
            None
        }
    }
}

async fn connection<H, F>(
    stream: impl Future<Output = Option<Begun>>,
    protocols: Protocols,
    handler: H,
    mut drain: watch::Receiver<bool>,
) where
    H: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let begun = tokio::select! {
        begun = stream => begun,
        () = draining(&mut drain) => None,
    };
    match begun {
        Some(Begun::Plain(stream)) => serve(stream, protocols, handler, drain).await,
        Some(Begun::Tls(stream)) => serve(stream, protocols, handler, drain).await,
        None => {}
    }
}

async fn serve<S, H, F>(
    stream: S,
    protocols: Protocols,
    handler: H,
    mut drain: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = hyper::service::service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let builder = builder(protocols);
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = draining(&mut drain) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!("connection ended: {error}");
    }
}

fn builder(protocols: Protocols) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .adaptive_window(false)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .auto_date_header(false);
    builder.http1().timer(TokioTimer::new());
    match protocols {
        Protocols::Http2 => builder.http2_only(),
        Protocols::Any => builder,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt, Empty};
    use hyper_util::client::legacy::Client;
    use tokio::sync::Notify;

    use super::*;

    type TestClient = Client<hyper_util::client::legacy::connect::HttpConnector, Empty<Bytes>>;

    async fn server(drain_timeout: Duration) -> (Server, watch::Sender<bool>) {
        let (start_drain, drain) = watch::channel(false);
        let address = "127.0.0.1:0".parse().unwrap();
        let server = Server::bind(address, Protocols::Any, drain, drain_timeout)
            .await
            .unwrap();
        (server, start_drain)
    }

    fn clients() -> [TestClient; 2] {
        let http1 = Client::builder(TokioExecutor::new()).build_http();
        let http2 = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http();
        [http1, http2]
    }

    #[tokio::test]
    async fn a_request_in_flight_is_finished_and_then_nobody_listens() {
        for client in clients() {
            let (server, start_drain) = server(Duration::from_secs(30)).await;
            let address = server.address().unwrap();
            let entered = std::sync::Arc::new(Notify::new());
            let release = std::sync::Arc::new(Notify::new());
            let (enter, wait) = (entered.clone(), release.clone());
            let running = tokio::spawn(server.run(move |_| {
                let (enter, wait) = (enter.clone(), wait.clone());
                async move {
                    enter.notify_one();
                    wait.notified().await;
                    Response::new(Body::Full(Bytes::from_static(b"done")))
                }
            }));
            let uri: http::Uri = format!("http://{address}/").parse().unwrap();
            let call = tokio::spawn(client.get(uri.clone()));
            entered.notified().await;
            start_drain.send(true).unwrap();
            release.notify_one();
            let answer = call.await.unwrap().unwrap();
            assert_eq!(
                answer.into_body().collect().await.unwrap().to_bytes(),
                "done"
            );
            assert_eq!(running.await.unwrap(), 0);
            assert!(client.get(uri).await.is_err());
        }
    }

    #[tokio::test]
    async fn what_does_not_finish_in_time_is_cut_off() {
        let (server, start_drain) = server(Duration::from_millis(20)).await;
        let address = server.address().unwrap();
        let entered = std::sync::Arc::new(Notify::new());
        let enter = entered.clone();
        let running = tokio::spawn(server.run(move |_| {
            enter.notify_one();
            std::future::pending()
        }));
        let [client, _] = clients();
        let call = tokio::spawn(client.get(format!("http://{address}/").parse().unwrap()));
        entered.notified().await;
        start_drain.send(true).unwrap();
        assert_eq!(running.await.unwrap(), 1);
        assert!(call.await.unwrap().is_err());
    }
}
