//! Everything fails at once under too much load: retries must not add to it, and when it is over it must be over.

use std::sync::Arc;
use std::time::Duration;

use forebay_tests::faulty::Faulty;
use forebay_tests::folder;
use forebay_tests::gateway::{Gateway, endpoints};
use forebay_tests::load::{self, open_loop};
use forebay_tests::strict::Multiplexed;
use forebay_tests::wire::{INFER, frame};
use parking_lot::Mutex;
use tokio::time::Instant;

const SERVERS: usize = 3;
const SLOTS: u32 = 4;
const SERVICE: Duration = Duration::from_millis(50);
/// All servers together, in requests a second.
const CAPACITY: u32 = SERVERS as u32 * SLOTS * 1000 / SERVICE.as_millis() as u32;
const PER_TRY: Duration = Duration::from_millis(500);
const SECOND: Duration = Duration::from_secs(1);

fn start() -> anyhow::Result<Faulty> {
    let (slots, service) = (SLOTS.to_string(), SERVICE.as_millis().to_string());
    Faulty::start(&["--slots", &slots, "--service-ms", &service, "--queue", "8"])
}

/// That reached the servers.
async fn requests(servers: &[Faulty]) -> anyhow::Result<u64> {
    let mut sum = 0;
    for server in servers {
        sum += server.count("requests").await?;
    }
    Ok(sum)
}

/// Twice what the servers can do, all the time; for some seconds in the middle all of it fails.
async fn storm(cluster: &str) -> anyhow::Result<()> {
    let servers: Vec<Faulty> = (0..SERVERS).map(|_| start()).collect::<Result<_, _>>()?;
    let addresses = endpoints(servers.iter().map(|server| server.address));
    let folder = folder!()?;
    let gateway = Gateway::start(
        &folder,
        &format!(
            "[[listeners]]\naddress = '127.0.0.1:0'\n\
             [[routes]]\ncluster = 'workers'\nretry = {{ per_try_timeout = '500ms' }}\n\
             [[clusters]]\nname = 'workers'\nendpoints = {addresses}\n\
             health = {{ probe = 'http', path = '/healthz' }}\n{cluster}\n"
        ),
    )?;
    gateway.all_healthy().await?;
    let (before, after) = (3 * SECOND, 3 * SECOND);
    let failing = load::seconds(6);
    let start = Instant::now();
    let answered = Arc::new(Mutex::new(Vec::new()));
    let load = tokio::spawn(open_loop(2 * CAPACITY, before + failing + after, {
        let calls = Arc::new(Multiplexed::new(gateway.address(), 4));
        let answered = answered.clone();
        move |number| {
            let (calls, answered) = (calls.clone(), answered.clone());
            async move {
                let answer = calls.call(number as usize, INFER, frame(0, b"any")).await;
                if answer.is_ok() {
                    answered.lock().push(start.elapsed());
                }
                // Half of all must fail; nobody waits for that.
                Ok(())
            }
        }
    }));
    tokio::time::sleep_until(start + before).await;
    let counted = requests(&servers).await?;
    for server in &servers {
        server.control("fault=errors&share=1").await?;
    }
    tokio::time::sleep_until(start + before + failing).await;
    let reached = requests(&servers).await? - counted;
    for server in &servers {
        server.control("fault=none").await?;
    }
    let over = start.elapsed();
    let report = load.await?;
    let answered = answered.lock().clone();
    let goodput = |from: Duration, to: Duration| {
        let within = answered
            .iter()
            .filter(|at| (from..to).contains(*at))
            .count();
        within as f64 / (to - from).as_secs_f64()
    };
    let usual = goodput(SECOND, before);
    let recovered = goodput(over + SECOND, over + 2 * SECOND);
    let offered = failing.as_secs_f64() * f64::from(2 * CAPACITY);
    println!(
        "{cluster}: {usual:.0}/s before, {recovered:.0}/s a second after; reached {:.2} of the offered; {report:?}",
        reached as f64 / offered
    );
    assert!(reached as f64 <= 1.25 * offered, "{reached} of {offered}");
    assert!(usual > 0.6 * f64::from(CAPACITY), "{usual}");
    assert!(recovered > 0.8 * usual, "{recovered} after {usual}");
    assert!(report.longest < PER_TRY + SECOND, "{report:?}");
    gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_ends_when_it_ends() -> anyhow::Result<()> {
    storm("").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_alone_bounds_the_retries() -> anyhow::Result<()> {
    storm("breaker = false").await
}
