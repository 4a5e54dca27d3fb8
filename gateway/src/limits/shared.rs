//! Rate limits that gateways share: buckets in Redis, by its clock, the same as those in `traffic::rate`.
//!
//! One script looks at all buckets of a request and takes from each or from none, so a request costs one round trip and
//! no two gateways take the same token. A bucket that nobody asked for until it was full again is forgotten by its time
//! to live; one that seems emptier than empty, as after the clock was set back, counts as empty. What a bucket is kept under tells the limit and who asks only as a digest, since that may be a secret.
//! (Time in a script that writes needs Redis 5.)

use std::sync::LazyLock;
use std::time::Duration;

use forebay_cache::Digest;
use redis::{ErrorKind, Script, ServerErrorKind, cmd};

use crate::redis::{Redis, Unanswered};
use crate::traffic::rate::Rate;

/// For each key an interval and a depth in microseconds. Answers with 0, and for each bucket the microseconds until it is
/// full; or with the place, from 1, of the first that is empty, and the microseconds until it has a token.
static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(CODE));
const CODE: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full = {}
for place, key in ipairs(KEYS) do
  local interval, depth = tonumber(ARGV[2 * place - 1]), tonumber(ARGV[2 * place])
  local known = math.min(tonumber(redis.call('GET', key) or '0'), now + depth)
  full[place] = math.max(known, now) + interval
  local lacks = full[place] - now - depth
  if lacks > 0 then
    return {place, math.ceil(lacks)}
  end
end
local answer = {0}
for place, key in ipairs(KEYS) do
  local left = full[place] - now
  redis.call('SET', key, string.format('%.3f', full[place]), 'PX', math.max(1, math.ceil(left / 1000)))
  answer[place + 1] = math.floor(left)
end
return answer
";

/// A bucket that is asked for.
pub struct Wanted {
    /// Of the limit and of who asks, the same in every gateway.
    pub digest: Digest,
    pub rate: Rate,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// From each; in how long each is full.
    Yes(Vec<Duration>),
    /// The bucket at this place has none for so long.
    No { place: usize, lacks: Duration },
}

/// A token from each bucket, or from none.
///
/// # Errors
/// Redis does not answer, or with something else.
pub async fn take(redis: &Redis, wanted: Vec<Wanted>) -> Result<Taken, Unanswered> {
    let prefix = redis.prefix();
    let rates: Vec<Rate> = wanted.iter().map(|wanted| wanted.rate).collect();
    let keys: Vec<String> = wanted
        .into_iter()
        .map(|wanted| format!("{prefix}:rate:{}", hex(wanted.digest)))
        .collect();
    let ask = |name: &str, script: &str| {
        let mut command = cmd(name);
        command.arg(script).arg(keys.len()).arg(&keys);
        for rate in &rates {
            command
                .arg(micros(rate.interval()))
                .arg(micros(rate.depth()));
        }
        command
    };
    let by_hash = redis
        .ask::<Vec<u64>>(&ask("EVALSHA", SCRIPT.get_hash()))
        .await;
    let answer = match by_hash {
        Err(Unanswered::Refused(error))
            if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) =>
        {
            redis.ask::<Vec<u64>>(&ask("EVAL", CODE)).await?
        }
        answer => answer?,
    };
    read(&answer, rates.len()).ok_or(Unanswered::Unreadable)
}

fn read(answer: &[u64], wanted: usize) -> Option<Taken> {
    match answer {
        [0, left @ ..] if left.len() == wanted => {
            let left = left.iter().map(|micros| Duration::from_micros(*micros));
            Some(Taken::Yes(left.collect()))
        }
        [place, lacks] => {
            let place = usize::try_from(*place).ok()?.checked_sub(1)?;
            let lacks = Duration::from_micros(*lacks);
            (place < wanted).then_some(Taken::No { place, lacks })
        }
        _ => None,
    }
}

/// Nanoseconds as microseconds with what is left of them.
fn micros(nanos: u64) -> String {
    format!("{}.{:03}", nanos / 1000, nanos % 1000)
}

fn hex(digest: Digest) -> String {
    let key = digest.key();
    let bytes = key.as_bytes().iter().take(16);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_script_are_read_and_nothing_else() {
        let micros = Duration::from_micros;
        assert_eq!(read(&[0, 5], 1), Some(Taken::Yes(vec![micros(5)])));
        let both = Taken::Yes(vec![micros(5), micros(6)]);
        assert_eq!(read(&[0, 5, 6], 2), Some(both));
        let lacks = micros(9);
        assert_eq!(read(&[2, 9], 2), Some(Taken::No { place: 1, lacks }));
        for (answer, wanted) in [
            (&[][..], 1),
            (&[0], 1),
            (&[0, 5], 2),
            (&[3, 9], 2),
            (&[1], 1),
        ] {
            assert_eq!(read(answer, wanted), None, "{answer:?}");
        }
    }

    #[test]
    fn parts_of_a_microsecond_count() {
        assert_eq!(micros(0), "0.000");
        assert_eq!(micros(1_000_000_007), "1000000.007");
    }
}
