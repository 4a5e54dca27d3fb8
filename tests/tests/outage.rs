//! Real workers that die or hang under real load: as long as one of them can answer, no client sees an error.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use forebay_tests::client::{self, Inference, Rest, floats, output_floats};
use forebay_tests::folder;
use forebay_tests::folder::Folder;
use forebay_tests::gateway::{Gateway, endpoints};
use forebay_tests::load::{Report, open_loop};
use forebay_tests::worker::{Repository, Worker};

const RATE: u32 = 200;
const SECONDS: Duration = Duration::from_secs(10);

struct Fixture {
    repository: Repository,
    workers: Vec<Worker>,
    gateway: Gateway,
    _folder: Folder,
}

/// Three real workers, and a gateway that gives each attempt half a second. `cluster` is a further line of its table.
async fn three_workers(cluster: &str) -> anyhow::Result<Fixture> {
    let repository = Repository::make(folder!()?)?;
    let workers: Vec<Worker> = (0..3)
        .map(|_| repository.serve())
        .collect::<Result<_, _>>()?;
    let folder = folder!()?;
    let addresses = endpoints(workers.iter().map(|worker| worker.grpc));
    let gateway = Gateway::start(
        &folder,
        &format!(
            "[[listeners]]\naddress = '127.0.0.1:0'\n\
             [[routes]]\ncluster = 'workers'\nretry = {{ per_try_timeout = '500ms' }}\n\
             [[clusters]]\nname = 'workers'\nendpoints = {addresses}\n{cluster}\n"
        ),
    )?;
    gateway.all_healthy().await?;
    Ok(Fixture {
        repository,
        workers,
        gateway,
        _folder: folder,
    })
}

/// 200 calls a second for ten seconds, half of them over gRPC and half over REST; every answer is looked at.
async fn load(address: SocketAddr) -> anyhow::Result<Report> {
    let rest = Rest::new(address);
    let mut connections = Vec::new();
    for _ in 0..4 {
        connections.push(client::inference(address).await?);
    }
    Ok(open_loop(RATE, SECONDS, move |number| {
        let (rest, inference) = (
            rest.clone(),
            connections[number as usize / 2 % connections.len()].clone(),
        );
        let row = [number as f32, 1.0, -1.0, 0.5];
        async move {
            let answer = if number % 2 == 0 {
                over_grpc(inference, row).await?
            } else {
                over_rest(rest, row).await?
            };
            ensure!(
                answer == row.map(|value| value * 2.0),
                "{row:?} became {answer:?}"
            );
            Ok(())
        }
    })
    .await)
}

async fn over_grpc(mut inference: Inference, row: [f32; 4]) -> anyhow::Result<Vec<f32>> {
    let answer = inference
        .model_infer(floats("double", &row))
        .await
        .context("gRPC")?;
    output_floats(answer.get_ref())
}

async fn over_rest(rest: Rest, row: [f32; 4]) -> anyhow::Result<Vec<f32>> {
    rest.infer("double", row)
        .await
        .context("REST")?
        .floats()
        .context("REST")
}

/// One worker dies after three seconds and is back after six. How many requests it got since.
async fn kill_and_restart(fixture: &mut Fixture) -> anyhow::Result<u64> {
    let Fixture {
        repository,
        workers,
        gateway,
        ..
    } = fixture;
    let load = tokio::spawn(load(gateway.address()));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let killed = workers.remove(0);
    killed.process.signal("KILL")?;
    let (grpc, http) = (killed.grpc, killed.http);
    drop(killed);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = gateway.endpoint(grpc).await?;
    workers.push(repository.serve_again(grpc, http)?);
    let report = load.await??;
    println!("{report:?}");
    assert_eq!(report.calls, 2000);
    assert!(report.errors.is_empty(), "{report:?}");
    let after = gateway.endpoint(grpc).await?;
    assert_eq!(after["health"], "healthy", "{after}");
    gateway.all_idle().await?;
    println!("{before}, then {after}");
    let requests = |endpoint: &serde_json::Value| endpoint["requests"].as_u64().context("requests");
    Ok(requests(&after)? - requests(&before)?)
}

/// One worker hangs after three seconds and goes on after seven.
async fn stop_and_continue(fixture: &Fixture) -> anyhow::Result<Report> {
    let Fixture {
        workers, gateway, ..
    } = fixture;
    let load = tokio::spawn(load(gateway.address()));
    tokio::time::sleep(Duration::from_secs(3)).await;
    workers[0].process.signal("STOP")?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    workers[0].process.signal("CONT")?;
    let report = load.await??;
    println!("{report:?}");
    assert_eq!(report.calls, 2000);
    assert!(report.errors.is_empty(), "{report:?}");
    // One attempt that times out, and a retry.
    assert!(report.longest < Duration::from_millis(1500), "{report:?}");
    gateway.all_healthy().await?;
    gateway.all_idle().await?;
    Ok(report)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_sees_a_worker_die_and_return() -> anyhow::Result<()> {
    let mut fixture = three_workers("").await?;
    let requests = kill_and_restart(&mut fixture).await?;
    assert!(requests > 0, "the worker that came back was never tried");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_returns_gets_its_share_again() -> anyhow::Result<()> {
    let mut fixture = three_workers("policy = 'least_request'").await?;
    let requests = kill_and_restart(&mut fixture).await?;
    assert!(
        requests > 50,
        "the worker that came back was asked {requests} times"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_waits_for_a_worker_that_hangs() -> anyhow::Result<()> {
    stop_and_continue(&three_workers("").await?).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_meets_a_worker_that_hangs_is_answered_by_another() -> anyhow::Result<()> {
    let report = stop_and_continue(&three_workers("policy = 'least_request'").await?).await?;
    assert!(
        report.longest > Duration::from_millis(400),
        "no call met the stopped worker: {report:?}"
    );
    Ok(())
}
