//! `forebay-worker`: arguments → configuration → telemetry → runtime library → serve → drain.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use forebay_config::telemetry::Telemetry;
use forebay_worker::args::Args;
use forebay_worker::engine::onnx;
use forebay_worker::process;
use forebay_worker::telemetry::logs;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// For the spans that are still queued when the process ends.
const LAST_SPANS: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forebay-worker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let config = args.worker()?;
    if args.check {
        process::announce("configuration is valid");
        return Ok(());
    }
    let logs = logs::init(&config.telemetry.log_level);
    let library = onnx::load(config.onnxruntime.as_deref())?;
    tracing::info!(
        "ONNX Runtime {} from {}",
        library.version(),
        library.path().display()
    );

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("forebay-worker")
        .enable_all()
        .build()?;
    let spans = {
        let _inside = runtime.enter();
        // The worker samples by itself, as clients may change how.
        forebay_otlp::exporter(&Telemetry {
            sampling_ratio: 1.0,
            ..config.telemetry.clone()
        })?
    };
    let telemetry = process::Telemetry {
        logs,
        spans: spans.as_ref(),
    };
    let served = runtime.block_on(process::serve(config, library, telemetry));
    if let Some(error) = spans.and_then(|spans| spans.shutdown_with_timeout(LAST_SPANS).err()) {
        tracing::warn!("the last spans could not be exported: {error}");
    }
    runtime.shutdown_background();
    Ok(served?)
}
