//! Endpoints out of etcd, version 3 of its API: every key under a prefix is one, as its value says.
//!
//! The keys are listed once and watched from there on. A watch that broke off goes on at the revision behind the last
//! that was heard, with the next of the servers; where history does not reach so far back, all keys are listed again.
//! Lists are linearizable reads and watches want a leader, so a member that was cut off from its cluster says so
//! instead of telling old news. (How clients are to behave: etcd's "API guarantees" and "Interacting with etcd".)

mod keys;
mod value;

use std::future::ready;
use std::time::Duration;

use forebay_config::gateway::{Endpoint, Etcd};
use forebay_proto::etcd::auth_client::AuthClient;
use forebay_proto::etcd::kv_client::KvClient;
use forebay_proto::etcd::watch_client::WatchClient;
use forebay_proto::etcd::watch_request::RequestUnion;
use forebay_proto::etcd::{
    AuthenticateRequest, RangeRequest, WatchCreateRequest, WatchRequest, WatchResponse,
};
use futures::{FutureExt, StreamExt, stream};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tonic::body::Body;
use tonic::codec::Streaming;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{IntoStreamingRequest, Status};
use tower::Service;

use super::server::{self, Protocol};
use keys::{Keys, News};

/// From the connection to the watch.
const OPEN: Duration = Duration::from_secs(10);
/// A server that does not answer pings is gone. etcd takes one every 5 seconds at most.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Of one message, a list of all keys included.
const LARGEST: usize = 64 << 20;

pub struct EtcdSource {
    settings: Etcd,
    keys: Keys,
    watch: Option<Streaming<WatchResponse>>,
    /// Position of the server that is asked first.
    first: usize,
}

impl EtcdSource {
    pub fn new(settings: &Etcd) -> Self {
        Self {
            settings: settings.clone(),
            keys: Keys::default(),
            watch: None,
            first: fastrand::usize(..),
        }
    }

    pub async fn next(&mut self) -> Result<Vec<Endpoint>, String> {
        let heard = match self.watch.take() {
            None => Ok(false),
            Some(mut watch) => {
                let heard = self.change(&mut watch).await;
                if heard == Ok(true) {
                    self.watch = Some(watch);
                }
                heard
            }
        };
        if heard.is_err() {
            self.first = self.first.wrapping_add(1);
        }
        if !heard? {
            self.watch = Some(self.open().await?);
        }
        for wrong in self.keys.wrong() {
            log::warn!("etcd: {wrong}");
        }
        Ok(self.keys.endpoints())
    }

    /// Waits for a change and takes in what comes with it; false: the watch has to be opened anew.
    async fn change(&mut self, watch: &mut Streaming<WatchResponse>) -> Result<bool, String> {
        let mut changed = false;
        loop {
            let message = watch.message();
            let message = if changed {
                match message.now_or_never() {
                    Some(message) => message,
                    None => return Ok(true),
                }
            } else {
                message.await
            };
            let message = message.map_err(|status| failed("the watch", &status))?;
            let message = message.ok_or("the watch was ended")?;
            match self.keys.take_in(message)? {
                News::Nothing => {}
                News::Changed => changed = true,
                News::Lost => return Ok(false),
            }
        }
    }

    /// With the first server that can.
    async fn open(&mut self) -> Result<Streaming<WatchResponse>, String> {
        let mut servers = self.settings.servers.clone();
        let first = self.first % servers.len().max(1);
        servers.rotate_left(first);
        let mut reasons = Vec::new();
        for server in servers {
            let opened = tokio::time::timeout(OPEN, self.open_at(&server)).await;
            match opened {
                Ok(Ok(watch)) => return Ok(watch),
                Ok(Err(reason)) => reasons.push(format!("{server}: {reason}")),
                Err(_) => reasons.push(format!("{server}: no answer within {OPEN:?}")),
            }
            self.first = self.first.wrapping_add(1);
        }
        Err(reasons.join("; "))
    }

    async fn open_at(&mut self, server: &str) -> Result<Streaming<WatchResponse>, String> {
        let service = self.connect(server).await?;
        let origin: Uri = format!("http://{server}")
            .parse()
            .map_err(|error: http::uri::InvalidUri| error.to_string())?;
        let mut auth = AuthClient::with_origin(service.clone(), origin.clone());
        let mut kv = KvClient::with_origin(service.clone(), origin.clone())
            .max_decoding_message_size(LARGEST);
        let mut watcher =
            WatchClient::with_origin(service, origin).max_decoding_message_size(LARGEST);
        let token = match self.credentials().await? {
            None => None,
            Some(credentials) => {
                let answer = auth.authenticate(credentials).await;
                let answer = answer.map_err(|status| failed("authentication", &status))?;
                let token = answer.into_inner().token.parse();
                Some(token.map_err(|_| "the token is no text")?)
            }
        };
        // Twice, should history end behind the list before the watch begins.
        for _ in 0..2 {
            if self.keys.next_revision().is_none() {
                let (key, range_end) = self.range();
                let list = marked(tonic::Request::new(RangeRequest { key, range_end }), &token);
                let list = kv.range(list).await;
                let list = list.map_err(|status| failed("the list of keys", &status))?;
                self.keys.list(list.into_inner());
            }
            let (key, range_end) = self.range();
            let create = WatchRequest {
                request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
                    key,
                    range_end,
                    start_revision: self.keys.next_revision().unwrap_or(0),
                    progress_notify: true,
                })),
            };
            // The watch lasts as long as this does.
            let requests = stream::once(ready(create)).chain(stream::pending());
            let watch = watcher
                .watch(marked(requests.into_streaming_request(), &token))
                .await;
            let mut watch = watch
                .map_err(|status| failed("the watch", &status))?
                .into_inner();
            let created = watch.message().await;
            let created = created.map_err(|status| failed("the watch", &status))?;
            let created = created.ok_or("the watch was ended")?;
            if self.keys.take_in(created)? != News::Lost {
                return Ok(watch);
            }
        }
        Err("its history is shorter than the time a list takes".to_owned())
    }

    /// A connection of HTTP/2 that is as good as its pings.
    async fn connect(
        &self,
        server: &str,
    ) -> Result<
        impl Service<Request<Body>, Response = Response<Incoming>, Error = hyper::Error, Future: Send>
        + Clone
        + use<>,
        String,
    > {
        let transport = server::open(server, self.settings.tls.as_ref(), Protocol::Http2).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(TokioIo::new(transport))
            .await
            .map_err(|error| format!("no HTTP/2: {error}"))?;
        // It ends by itself when nothing uses it any more, or with an error that its streams tell.
        tokio::spawn(connection);
        Ok(tower::service_fn(move |request| {
            let mut sender = sender.clone();
            async move { sender.send_request(request).await }
        }))
    }

    async fn credentials(&self) -> Result<Option<AuthenticateRequest>, String> {
        let Some(login) = &self.settings.login else {
            return Ok(None);
        };
        Ok(Some(AuthenticateRequest {
            name: login.user.clone(),
            password: server::secret(&login.password_file).await?,
        }))
    }

    /// The first key under the prefix, and the first behind all of them.
    fn range(&self) -> (Vec<u8>, Vec<u8>) {
        let first = self.settings.prefix.as_bytes().to_vec();
        let end = keys::behind(&first);
        (first, end)
    }
}

/// With what every request carries.
fn marked<T>(
    mut request: tonic::Request<T>,
    token: &Option<MetadataValue<Ascii>>,
) -> tonic::Request<T> {
    let metadata = request.metadata_mut();
    metadata.insert("hasleader", MetadataValue::from_static("true"));
    if let Some(token) = token {
        metadata.insert("token", token.clone());
    }
    request
}

fn failed(what: &str, status: &Status) -> String {
    format!("{what} failed: {}", status.message())
}
