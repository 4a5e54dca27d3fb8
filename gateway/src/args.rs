//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Layer-7 gateway in front of inference workers: HTTP/1.1, HTTP/2, gRPC and WebSocket on one port.
#[derive(Debug, Parser)]
#[command(name = "forebay-gateway", version)]
pub struct Args {
    /// Configuration in TOML.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Validate the configuration, print every problem, and exit.
    #[arg(long)]
    pub check: bool,
    /// Take the listening sockets over from the gateway that runs at `upgrade_socket`, which then drains. It goes on
    /// if this one cannot start.
    #[arg(long, conflicts_with = "check")]
    pub upgrade: bool,
}
