//! What happens on a new connection: detect the protocol, then hand each request to its data path.
//!
//! Unary inference goes to `unary`; all else to pingora's proxy. HTTP/2 requests are told apart here, before
//! pingora's proxy machinery is set up for them; HTTP/1 requests inside it (`proxy`), since their head is read
//! there. The protocol is detected byte by byte within the listener's header timeout: a client that is silent,
//! or whose whole request is shorter than the HTTP/2 preface, holds nothing up.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, ReusedHttpStream, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{self, H2Accept, HttpSession};
use pingora::protocols::{ALPN, Digest, Stream};
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use tokio::time::Instant;

use crate::arrival;
use crate::gateway::Gateway;
use crate::plan::{self, Plan};
use crate::proxy::{CLIENT_SILENCE, Proxy};
use crate::unary;

/// Larger than HTTP/2's default of 16 KiB, for tensors; small enough that a stream can be peeked at
/// (`proxy::find`).
const MAX_FRAME: u32 = 32 << 10;
/// How long an HTTP/2 connection may have no request before it is asked to close.
const H2_IDLE: Duration = Duration::from_secs(300);

pub struct Front {
    pub gateway: Arc<Gateway>,
    pub proxy: Arc<HttpProxy<Proxy>>,
    pub header_timeout: Duration,
    pub max_concurrent_streams: u32,
}

#[async_trait]
impl ServerApp for Front {
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let _open = self.gateway.connect();
        let over_tls = stream.get_ssl_digest().is_some();
        if over_tls {
            if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
                self.http2(stream, shutdown.clone()).await;
            } else {
                self.http1(stream, shutdown).await;
            }
            return None;
        }
        match tokio::time::timeout(self.header_timeout, arrival::first(stream)).await {
            Ok(Some((stream, arrival::Protocol::Http2))) => {
                self.http2(stream, shutdown.clone()).await;
            }
            Ok(Some((stream, arrival::Protocol::Http1))) => self.http1(stream, shutdown).await,
            Ok(None) => {}
            Err(_) => log::debug!(
                "a connection sent no request within {:?}",
                self.header_timeout
            ),
        }
        None
    }
}

impl Front {
    async fn http1(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) {
        let mut session = ServerSession::new_http1(stream);
        // Without keepalive the read timeout bounds each read of the head; the proxy turns keepalive on after it.
        session.set_keepalive(None);
        session.set_read_timeout(Some(self.header_timeout));
        let mut reused = self.proxy.process_new_http(session, shutdown).await;
        while let Some((stream, settings)) = reused.map(ReusedHttpStream::consume) {
            let Some(stream) = arrival::next(stream, CLIENT_SILENCE, self.header_timeout).await
            else {
                return;
            };
            let mut session = ServerSession::new_http1(stream);
            if let Some(settings) = settings {
                settings.apply_to_session(&mut session);
            }
            reused = self.proxy.process_new_http(session, shutdown).await;
        }
    }

    /// Accepts streams until the connection ends; on shutdown GOAWAY is sent and what is open is finished.
    async fn http2(self: &Arc<Self>, stream: Stream, mut shutdown: ShutdownWatch) {
        let digest = Arc::new(Digest {
            ssl_digest: stream.get_ssl_digest(),
            timing_digest: stream.get_timing_digest(),
            proxy_digest: stream.get_proxy_digest(),
            socket_digest: stream.get_socket_digest(),
        });
        let mut options = server::default_h2_options();
        options
            .max_concurrent_streams(self.max_concurrent_streams)
            .initial_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .max_frame_size(MAX_FRAME);
        let handshake = server::handshake(stream, Some(options));
        let mut connection = match tokio::time::timeout(self.header_timeout, handshake).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return log::debug!("http/2 handshake: {error}"),
            Err(_) => return,
        };
        let mut draining = *shutdown.borrow();
        if draining {
            connection.graceful_shutdown();
        }
        // Held by every stream's task: alone here, the connection is idle.
        let busy = Arc::new(());
        let mut asked = false;
        let mut patience = pin!(tokio::time::sleep(self.header_timeout));
        loop {
            let accepted = tokio::select! {
                biased;
                _ = shutdown.changed(), if !draining => {
                    connection.graceful_shutdown();
                    draining = true;
                    continue;
                }
                accepted = HttpSession::from_h2_conn(&mut connection, digest.clone()) => accepted,
                () = &mut patience => {
                    let idle = !std::mem::take(&mut asked) && Arc::strong_count(&busy) == 1;
                    if idle && draining {
                        break;
                    }
                    if idle {
                        connection.graceful_shutdown();
                        draining = true;
                    }
                    let time = if idle { self.header_timeout } else { H2_IDLE };
                    patience.as_mut().reset(Instant::now() + time);
                    continue;
                }
            };
            match accepted {
                Ok(Some(H2Accept::Session(session))) => {
                    asked = true;
                    self.spawn(session, &shutdown, busy.clone());
                }
                Ok(Some(H2Accept::Rejected)) => {}
                Ok(None) => break,
                Err(error) => {
                    log::debug!("http/2 connection: {error}");
                    break;
                }
            }
        }
    }

    /// One task per stream, on the connection's own thread: its upstream connection is there too.
    ///
    /// Here and along the unary path futures are pinned in place before they are awaited: an awaited future that
    /// is moved takes its space twice at every level. What is spawned is on the heap, since the runtime moves it five
    /// times on its way.
    fn spawn(self: &Arc<Self>, session: HttpSession, shutdown: &ShutdownWatch, busy: Arc<()>) {
        let front = self.clone();
        let shutdown = shutdown.clone();
        tokio::spawn(Box::pin(async move {
            let _busy = busy;
            let mut session = ServerSession::new_http2(session);
            let snapshot = front.gateway.snapshot();
            match plan::of(&snapshot, session.req_header(), true) {
                Plan::Grpc(method) => {
                    pin!(unary::serve_grpc(
                        &front.gateway,
                        &snapshot,
                        &mut session,
                        method
                    ))
                    .await;
                }
                Plan::Rest => {
                    // Boxed, so that its size is not carried by every gRPC call.
                    Box::pin(unary::serve_rest(&front.gateway, &snapshot, &mut session)).await;
                    let _ = session.finish().await;
                }
                Plan::Proxy => {
                    drop(snapshot);
                    Box::pin(front.proxy.process_new_http(session, &shutdown)).await;
                }
            }
        }));
    }
}
