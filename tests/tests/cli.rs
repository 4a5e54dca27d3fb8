//! Both binaries on the command line: what they print, and how they fail.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use forebay_tests::folder;
use forebay_tests::process::{Ended, run};

const SOON: Duration = Duration::from_secs(30);

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("UTF-8 path")
}

fn check(binary: &str, config: &str) -> anyhow::Result<Ended> {
    let folder = folder!()?;
    let file = folder.write("config.toml", config)?;
    run(binary, &["--config", text(&file)?, "--check"], SOON)
}

#[test]
fn version_and_help_are_printed() -> anyhow::Result<()> {
    for binary in ["forebay-gateway", "forebay-worker"] {
        let version = run(binary, &["--version"], SOON)?;
        assert_eq!(version.status.code(), Some(0));
        assert_eq!(
            version.stdout,
            format!("{binary} {}", env!("CARGO_PKG_VERSION"))
        );
        let help = run(binary, &["--help"], SOON)?;
        assert_eq!(help.status.code(), Some(0));
        for option in ["--config", "--check", "--version", "--help"] {
            assert!(help.stdout.contains(option), "{option} in\n{}", help.stdout);
        }
        let wrong = run(binary, &["--confgi", "x"], SOON)?;
        assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
        assert!(wrong.stderr.contains("--confgi"), "{wrong:?}");
    }
    Ok(())
}

#[test]
fn a_good_configuration_passes_the_check() -> anyhow::Result<()> {
    let gateway = "[[listeners]]\naddress = '127.0.0.1:0'\n[[clusters]]\nname = 'workers'\nendpoints = ['127.0.0.1:1']\n";
    let ended = check("forebay-gateway", gateway)?;
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(
        !ended.stdout.is_empty() && ended.stderr.is_empty(),
        "{ended:?}"
    );
    let ended = check(
        "forebay-worker",
        "repository = '/srv/models'\n[models.minilm]\nmax_batch_size = 8\n",
    )?;
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(
        !ended.stdout.is_empty() && ended.stderr.is_empty(),
        "{ended:?}"
    );
    Ok(())
}

#[test]
fn a_bad_configuration_fails_it_with_every_problem() -> anyhow::Result<()> {
    let gateway = "threads = 0\n[[listeners]]\nadress = '127.0.0.1:0'\n\
                   [[clusters]]\nname = 'workers'\npolicy = 'fastest'\nendpoints = ['127.0.0.1']\n\
                   [[routes]]\ncluster = 'wrokers'\ntimeout = 5\n";
    let paths = [
        "threads",
        "listeners[0].adress",
        "clusters[0].policy",
        "clusters[0].endpoints[0]",
        "routes[0].cluster",
        "routes[0].timeout",
    ];
    let ended = check("forebay-gateway", gateway)?;
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    for path in paths {
        assert!(ended.stderr.contains(path), "{path} in\n{}", ended.stderr);
    }
    assert!(ended.stderr.contains("config.toml"), "{}", ended.stderr);
    let worker = "repository = ''\nlisten = 'here'\n[defaults]\nmax_batch_size = 0\n[models.a]\nprovider = 'gpu'\n";
    let ended = check("forebay-worker", worker)?;
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    for path in [
        "repository",
        "listen",
        "defaults.max_batch_size",
        "models.a.provider",
    ] {
        assert!(ended.stderr.contains(path), "{path} in\n{}", ended.stderr);
    }
    Ok(())
}

#[test]
fn a_file_that_is_not_there_is_named() -> anyhow::Result<()> {
    for binary in ["forebay-gateway", "forebay-worker"] {
        for arguments in [
            &["--config", "/nonexistent/config.toml"][..],
            &["--check", "--config", "/nonexistent/config.toml"],
        ] {
            let ended = run(binary, arguments, SOON)?;
            assert_eq!(ended.status.code(), Some(1), "{ended:?}");
            assert!(
                ended.stderr.contains("/nonexistent/config.toml"),
                "{ended:?}"
            );
            assert!(!ended.stderr.contains("panicked"), "{ended:?}");
        }
    }
    Ok(())
}

#[test]
fn an_address_in_use_is_named() -> anyhow::Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let folder = folder!()?;
    let cluster = "[[clusters]]\nname = 'workers'\nendpoints = ['127.0.0.1:1']\n";
    for config in [
        format!("[[listeners]]\nname = 'public'\naddress = '{address}'\n{cluster}"),
        format!("[[listeners]]\naddress = '127.0.0.1:0'\n{cluster}[admin]\nlisten = '{address}'\n"),
    ] {
        let file = folder.write("gateway.toml", &config)?;
        let ended = run("forebay-gateway", &["--config", text(&file)?], SOON)?;
        assert_eq!(ended.status.code(), Some(1), "{config}{ended:?}");
        assert!(
            ended.stderr.contains(&address) && ended.stderr.contains("in use"),
            "{config}{ended:?}"
        );
        assert!(!ended.stderr.contains("panicked"), "{ended:?}");
        assert!(!ended.stdout.contains("listening"), "{ended:?}");
    }
    let models = folder.join("models");
    std::fs::create_dir_all(&models)?;
    for flags in [
        ["--listen", &address, "--http-listen", "127.0.0.1:0"],
        ["--http-listen", &address, "--listen", "127.0.0.1:0"],
    ] {
        let mut arguments = vec!["--repository", text(&models)?];
        arguments.extend(flags);
        let ended = run("forebay-worker", &arguments, SOON)?;
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert!(
            ended.stderr.contains(&address) && ended.stderr.contains("in use"),
            "{ended:?}"
        );
        assert!(!ended.stderr.contains("panicked"), "{ended:?}");
    }
    Ok(())
}

#[test]
fn an_endpoint_that_does_not_resolve_is_named() -> anyhow::Result<()> {
    let folder = folder!()?;
    let config = "[[listeners]]\naddress = '127.0.0.1:0'\n\
                  [[clusters]]\nname = 'workers'\nendpoints = ['nowhere.invalid:8001']\n";
    let file = folder.write("gateway.toml", config)?;
    let ended = run("forebay-gateway", &["--config", text(&file)?], SOON)?;
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains("nowhere.invalid:8001")
            && ended.stderr.contains("clusters[0].endpoints[0].address"),
        "{ended:?}"
    );
    Ok(())
}

#[test]
fn a_runtime_that_cannot_be_loaded_is_one_clear_line() -> anyhow::Result<()> {
    let folder = folder!()?;
    let models = folder.join("models");
    std::fs::create_dir_all(&models)?;
    let wrong = folder.write("libonnxruntime.so", "not a library")?;
    let config = format!(
        "repository = '{}'\nonnxruntime = '{}'\n",
        text(&models)?,
        text(&wrong)?
    );
    let file = folder.write("worker.toml", config)?;
    let any = ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
    let mut arguments = vec!["--config", text(&file)?];
    arguments.extend(any);
    let ended = run("forebay-worker", &arguments, SOON)?;
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains(text(&wrong)?), "{ended:?}");
    assert!(!ended.stderr.contains("panicked"), "{ended:?}");
    Ok(())
}
