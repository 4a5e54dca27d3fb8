//! A plain HTTP/1.1 server with a page for each thing that a proxy can get wrong.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use ::http::{HeaderValue, Request, Response, StatusCode};
use anyhow::Context;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::Listener;

type Page = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Pages: `/echo` (the request's body), `/headers` (the request's, as JSON), `/length` (of the request's body),
/// `/status/CODE`, `/chunks/N` (of unknown length), `/events` (what the test pushes), `/held` (until released),
/// `/slow/MS`, `/socket` (an upgrade, then everything comes back).
pub struct HttpUpstream {
    pub address: SocketAddr,
    site: Arc<Site>,
    tls: Option<TlsAcceptor>,
    listener: Option<Listener>,
}

struct Site {
    name: HeaderValue,
    requests: AtomicU64,
    released: watch::Sender<bool>,
    /// Pages under way.
    active: watch::Sender<u64>,
    events: Mutex<Option<UnboundedSender<Bytes>>>,
}

impl HttpUpstream {
    pub async fn start(name: &str) -> anyhow::Result<Self> {
        Self::start_with(name, None).await
    }

    pub async fn start_with(name: &str, tls: Option<TlsAcceptor>) -> anyhow::Result<Self> {
        let site = Arc::new(Site {
            name: HeaderValue::from_str(name)?,
            requests: AtomicU64::new(0),
            released: watch::Sender::new(false),
            active: watch::Sender::new(0),
            events: Mutex::new(None),
        });
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut upstream = Self {
            address,
            site,
            tls,
            listener: None,
        };
        upstream.restart().await?;
        Ok(upstream)
    }

    /// Cuts every connection and stops listening, at once.
    pub fn stop(&mut self) {
        if let Some(listener) = self.listener.take() {
            listener.stop();
        }
    }

    /// Listens again, on the same port.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        let site = self.site.clone();
        let handler = move |request| {
            let site = site.clone();
            async move { site.answer(request).await }
        };
        let listener = Listener::start(self.address, self.tls.clone(), handler).await?;
        self.address = listener.address;
        self.listener = Some(listener);
        Ok(())
    }

    pub fn requests(&self) -> u64 {
        self.site.requests.load(Ordering::SeqCst)
    }

    /// Lets held pages go on, now and later.
    pub fn release(&self) {
        self.site.released.send_replace(true);
    }

    /// Waits until the number of pages under way is as wanted.
    pub async fn until_active(&self, wanted: impl FnMut(&u64) -> bool) -> anyhow::Result<()> {
        let mut active = self.site.active.subscribe();
        tokio::time::timeout(Duration::from_secs(10), active.wait_for(wanted))
            .await
            .context("pages under way")??;
        Ok(())
    }

    /// Sends a server-sent event to whoever asked for `/events` last.
    pub fn push(&self, event: &str) -> anyhow::Result<()> {
        let events = self.site.events.lock();
        let events = events.as_ref().context("nobody asked for /events")?;
        events
            .send(Bytes::from(format!("data: {event}\n\n")))
            .context("the listener to /events is gone")
    }

    /// Ends `/events`.
    pub fn end_events(&self) {
        *self.site.events.lock() = None;
    }
}

impl Site {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Page {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let _active = Active::enter(&self);
        let mut page = self.page(request).await.unwrap_or_else(|error| {
            let mut page = text(format!("{error:#}"));
            *page.status_mut() = StatusCode::BAD_REQUEST;
            page
        });
        page.headers_mut().insert("x-upstream", self.name.clone());
        page
    }

    async fn page(&self, request: Request<Incoming>) -> anyhow::Result<Page> {
        let path = request.uri().path().to_owned();
        let (page, rest) = path
            .trim_start_matches('/')
            .split_once('/')
            .unwrap_or((path.trim_start_matches('/'), ""));
        Ok(match page {
            "echo" => {
                let method = HeaderValue::from_str(request.method().as_str())?;
                let mut page = Response::new(
                    Full::new(request.into_body().collect().await?.to_bytes()).boxed_unsync(),
                );
                page.headers_mut().insert("x-method", method);
                page
            }
            "headers" => {
                let headers = request.headers().iter();
                let headers: serde_json::Map<_, _> = headers
                    .map(|(name, value)| {
                        (
                            name.to_string(),
                            String::from_utf8_lossy(value.as_bytes()).into(),
                        )
                    })
                    .collect();
                text(serde_json::Value::Object(headers).to_string())
            }
            "length" => {
                let mut body = request.into_body();
                let mut length = 0;
                while let Some(frame) = body.frame().await {
                    length += frame?.data_ref().map_or(0, Bytes::len);
                }
                text(length.to_string())
            }
            "status" => {
                let mut page = text(format!("status {rest}"));
                *page.status_mut() = rest.parse()?;
                page
            }
            "chunks" => {
                let chunks = (0..rest.parse::<u32>()?)
                    .map(|number| Bytes::from(format!("chunk {number}\n")));
                stream(tokio_stream::iter(chunks))
            }
            "events" => {
                let (sender, events) = unbounded_channel();
                *self.events.lock() = Some(sender);
                let mut page = stream(UnboundedReceiverStream::new(events));
                page.headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
                page
            }
            "held" => {
                self.released
                    .subscribe()
                    .wait_for(|released| *released)
                    .await?;
                text("released")
            }
            "slow" => {
                tokio::time::sleep(Duration::from_millis(rest.parse()?)).await;
                text("at last")
            }
            "socket" => socket(request),
            _ => {
                let mut page = text(format!("no page {path}"));
                *page.status_mut() = StatusCode::NOT_FOUND;
                page
            }
        })
    }
}

fn text(text: impl Into<Bytes>) -> Page {
    Response::new(Full::new(text.into()).boxed_unsync())
}

fn stream(chunks: impl tokio_stream::Stream<Item = Bytes> + Send + 'static) -> Page {
    Response::new(BodyExt::boxed_unsync(StreamBody::new(
        chunks.map(|chunk| Ok(Frame::data(chunk))),
    )))
}

/// Switches protocols and returns every byte.
fn socket(request: Request<Incoming>) -> Page {
    let wanted = request.headers().get(UPGRADE).cloned();
    let Some(wanted) = wanted else {
        let mut page = text("no upgrade was asked for");
        *page.status_mut() = StatusCode::UPGRADE_REQUIRED;
        return page;
    };
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else {
            return;
        };
        let mut socket = TokioIo::new(upgraded);
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = socket.read(&mut buffer).await {
            if socket.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
    });
    let mut page = text("");
    *page.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    page.headers_mut().insert(UPGRADE, wanted);
    page.headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    page
}

struct Active<'a>(&'a Site);

impl<'a> Active<'a> {
    fn enter(site: &'a Site) -> Self {
        site.active.send_modify(|active| *active += 1);
        Self(site)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.active.send_modify(|active| *active -= 1);
    }
}
