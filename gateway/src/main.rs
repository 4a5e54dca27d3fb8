//! `forebay-gateway`: arguments → configuration → telemetry → build → run → drain.

mod admin;
mod args;
mod arrival;
mod assembly;
mod cache;
mod context;
mod fleet;
mod front;
mod gateway;
mod handover;
mod head_timer;
mod limits;
mod membership;
mod memory;
mod notify;
mod plan;
mod protocol;
mod proxy;
mod redis;
mod refusal;
mod reload;
mod security;
mod server;
mod shutdown;
mod sockets;
mod targets;
mod telemetry;
mod traffic;
mod unary;
mod upstream;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use clap::Parser;

use crate::args::Args;
use crate::assembly::Assembly;
use crate::gateway::Gateway;
use crate::handover::Succession;
use crate::membership::Membership;
use crate::sockets::Sockets;
use crate::telemetry::log_setup::LogLevel;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forebay-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let config = reload::read(&args.config)?;
    pingora::tls::install_default_crypto_provider();
    let problems = assembly::check_files(&config);
    if !problems.is_empty() {
        bail!(reload::list(&args.config, &problems));
    }
    if args.check {
        println!("configuration is valid");
        return Ok(());
    }
    let logs = LogLevel::init(&config.telemetry.log_level);
    let threads = config
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the control runtime")?;
    let assembly = Assembly {
        runtime: control.handle().clone(),
        shards: threads,
    };
    let snapshot = assembly
        .assemble(config.clone(), None, |_, _| true)
        .map_err(|problems| anyhow!(reload::list(&args.config, &problems)))?;
    let gateway = Arc::new(Gateway::new(snapshot));
    let membership = Membership::new(gateway.clone(), config.clone(), assembly);
    membership.start();
    fleet::tick_clusters(Arc::downgrade(&gateway), control.handle());
    if args.upgrade {
        // Ready before it asks, so that it serves at once.
        reload::await_first_probes(&gateway.snapshot());
    }
    let (succession, inherited) = Succession::join(config.upgrade_socket.as_deref(), args.upgrade)?;
    let sockets = Arc::new(Sockets::open(&config, inherited)?);
    let admin = sockets.admin()?;
    let admin = admin
        .map(|socket| admin::start(socket, gateway.clone(), &control))
        .transpose()?;
    reload::watch(args.config.clone(), membership, logs);
    let drain = shutdown::Drain::new(
        gateway.clone(),
        shutdown::Open {
            succession,
            sockets: sockets.clone(),
            admin,
        },
    );
    server::run(&config, gateway, &sockets, threads, drain)
}
