//! The life of the serving process: bind, load in the background, serve, drain.
//!
//! Says on stdout, in lines that programs read, where it listens and when loading is over.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use forebay_config::worker::{ModelControl, Worker};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::batch::memory::Memory;
use crate::engine::onnx::Runtime;
use crate::http;
use crate::load::sample;
use crate::repository::{
    Commands, Control, Counts, Ensembles, LoadEvent, Loader, Registry, Retirement, Watch,
};
use crate::server::tls::{self, TlsError};
use crate::server::{Bodies, Protocols, Server};
use crate::service::{Front, Guard, grpc};
use crate::shared_memory::Regions;
use crate::shutdown::Shutdown;
use crate::telemetry::Observer;
use crate::telemetry::logs::Logs;
use crate::telemetry::spans::Tracing;

/// For runs that are still going on when the connections are gone.
const LAST_RUNS: Duration = Duration::from_secs(5);

/// Why the process could not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {address}: {error}")]
    Listen {
        address: std::net::SocketAddr,
        error: std::io::Error,
    },
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
    #[error("cannot start the threads that load and end models: {0}")]
    Thread(std::io::Error),
    #[error("{0}")]
    Repository(String),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{0}")]
    Token(String),
}

/// What was set up before serving.
#[derive(Debug)]
pub struct Telemetry<'a> {
    pub logs: Logs,
    /// Lets requests without a parent pass; the worker samples them.
    pub spans: Option<&'a SdkTracerProvider>,
}

/// Serves until SIGTERM or SIGINT, then drains; a second signal cuts the draining short.
pub async fn serve(
    config: Worker,
    library: Runtime,
    telemetry: Telemetry<'_>,
) -> Result<(), ServeError> {
    let mut shutdown = Shutdown::listen().map_err(ServeError::Signals)?;
    let (start_drain, drain) = watch::channel(false);
    let (control, commands) = match config.model_control {
        ModelControl::None => (Control::none(), None),
        ModelControl::Poll { .. } | ModelControl::Explicit { .. } => {
            let (control, commands) = Control::new(config.repository.clone());
            (control, Some(commands))
        }
    };
    let front = Arc::new(Front {
        registry: Arc::new(Registry::new()),
        control,
        regions: Regions::default(),
        guard: Guard::new(config.repository_token_file.clone()).map_err(ServeError::Token)?,
        logs: telemetry.logs,
        observer: Observer {
            tracing: Tracing::new(telemetry.spans, config.telemetry.sampling_ratio),
            ..Observer::default()
        },
        load: Arc::default(),
        max_message_bytes: usize::try_from(config.max_message_bytes).unwrap_or(usize::MAX),
        bodies: Bodies::new(usize::try_from(config.max_body_bytes).unwrap_or(usize::MAX)),
        drain: drain.clone(),
    });
    tokio::spawn(sample(front.load.clone(), front.registry.clone()));
    let servers = listen(&config, &front, drain).await?;
    let memory_budget = config.memory_budget_bytes.map(Memory::new);
    let loader = Loader {
        registry: Arc::clone(&front.registry),
        runtime: library,
        config,
        observer: Arc::new(front.observer.clone()),
        ensembles: Ensembles::new(&front.registry, front.observer.tracing.clone()),
        tell: Box::new(tell),
        memory: memory_budget,
        watch: Watch::default(),
        retirement: Retirement::new(&front.registry).map_err(ServeError::Thread)?,
    };
    let loaded = load(loader, commands)?;

    let failed = tokio::select! {
        signal = shutdown.requested() => {
            tracing::info!("{signal}: draining");
            None
        }
        Ok(failed) = loaded => Some(failed),
    };
    start_drain.send_replace(true);
    tokio::select! {
        cut_off = finish(servers, front.registry.clone()) => match cut_off {
            0 => tracing::info!("drained"),
            connections => tracing::warn!("draining took too long, {connections} connections were cut off"),
        },
        signal = shutdown.requested() => tracing::warn!("{signal} again: ending at once"),
    }
    failed.map_or(Ok(()), |failed| Err(ServeError::Repository(failed)))
}

/// Binds both listeners before anything is served, then says where they are.
async fn listen(
    config: &Worker,
    front: &Arc<Front>,
    drain: watch::Receiver<bool>,
) -> Result<Vec<JoinHandle<usize>>, ServeError> {
    let bind = async |address, protocols| {
        let refuse = |error| ServeError::Listen { address, error };
        let server = Server::bind(address, protocols, drain.clone(), config.drain_timeout)
            .await
            .map_err(refuse)?;
        let tls = config.tls.as_ref();
        let tls = tls.map(|tls| tls::acceptor(tls, protocols)).transpose()?;
        let server = server.with_tls(tls);
        let bound = server.address().map_err(refuse)?;
        Ok::<_, ServeError>((server, bound))
    };
    let (grpc_server, grpc_address) = bind(config.listen, Protocols::Http2).await?;
    let http_server = match config.http_listen {
        Some(address) => Some(bind(address, Protocols::Any).await?),
        None => None,
    };
    let http_address = http_server
        .as_ref()
        .map_or("-".to_owned(), |(_, address)| address.to_string());
    announce(&format!(
        "forebay-worker listening grpc={grpc_address} http={http_address}"
    ));

    let on_grpc = front.clone();
    let mut servers = vec![tokio::spawn(
        grpc_server.run(move |request| grpc::answer(on_grpc.clone(), request)),
    )];
    if let Some((server, _)) = http_server {
        let on_http = front.clone();
        servers.push(tokio::spawn(
            server.run(move |request| http::answer(on_http.clone(), request)),
        ));
    }
    Ok(servers)
}

/// Loads the repository on a thread of its own, then carries out commands. The receiver hears only of a failure
/// that ends the process.
fn load(
    mut loader: Loader,
    commands: Option<Commands>,
) -> Result<oneshot::Receiver<String>, ServeError> {
    let (failed, hear_failure) = oneshot::channel();
    let work = move || {
        match loader.start() {
            Ok(Counts { ready, failed }) => announce(&format!(
                "forebay-worker ready models={ready} failed={failed}"
            )),
            Err(error) => {
                _ = failed.send(error);
                return;
            }
        }
        if let Some(commands) = commands {
            commands.carry_out(&mut loader);
        }
    };
    let thread = std::thread::Builder::new().name("load".to_owned());
    thread.spawn(work).map_err(ServeError::Thread)?;
    Ok(hear_failure)
}

fn tell(event: LoadEvent<'_>) {
    match event {
        LoadEvent::Started { name, version } => {
            tracing::info!("loading model '{name}' version {version}")
        }
        LoadEvent::Ready {
            name,
            version,
            provider,
            provider_note,
            took,
        } => {
            let seconds = took.as_secs_f64();
            let note = provider_note.map_or(String::new(), |note| format!("; {note}"));
            tracing::info!(
                "model '{name}' version {version} is ready on {provider} after {seconds:.1} s{note}"
            );
        }
        LoadEvent::Failed {
            name,
            version,
            reason,
        } => {
            let version = version.map_or("without a version".to_owned(), |version| {
                format!("version {version}")
            });
            tracing::error!("model '{name}' {version} cannot be served: {reason}");
        }
        LoadEvent::LetGo { name, version } => {
            tracing::info!("model '{name}' version {version} takes no more requests");
        }
    }
}

/// Waits for the connections, then for the models' last runs; how many connections were cut off.
async fn finish(servers: Vec<JoinHandle<usize>>, registry: Arc<Registry>) -> usize {
    let mut cut_off = 0;
    for server in servers {
        cut_off += server.await.unwrap_or(0);
    }
    let models = tokio::task::spawn_blocking(move || registry.shutdown());
    if tokio::time::timeout(LAST_RUNS, models).await.is_err() {
        tracing::warn!("models are still running, ending without them");
    }
    cut_off
}

/// A line on stdout. Whoever closed it does not want to know.
pub fn announce(line: &str) {
    if let Err(error) = writeln!(std::io::stdout(), "{line}") {
        tracing::debug!("cannot write to stdout: {error}");
    }
}
