//! A request of many rows, scattered over the endpoints of its cluster in parts and gathered in order.
//!
//! Each part is a call of its own, with the usual attempts, under the deadline of the whole. The first part that fails ends
//! the whole with its status, and what is still under way is dropped, which cancels it. When the answers do not fit together,
//! or are too large to be kept, the request goes out once more as it came.

use bytes::Bytes;
use forebay_proto::framing;
use forebay_proto::inference::{ModelInferRequest, ModelInferResponse};
use futures::stream::{FuturesUnordered, StreamExt};
use http::header::CONTENT_LENGTH;
use prost::Message as _;

use super::attempts::{Answered, Call};
use super::course::reach;
use crate::gateway::Route;
use crate::memory::Held;
use crate::protocol::method::Method;
use crate::protocol::rows;
use crate::refusal::Refusal;
use crate::telemetry::trace::RequestTrace;
use crate::traffic::split::Order;
use crate::upstream::Message;

/// Parts under way at a time.
const AT_A_TIME: usize = 64;

/// The parts, as messages and as calls.
struct Parts {
    requests: Vec<ModelInferRequest>,
    calls: Vec<Call>,
    /// What the messages take.
    _held: Held,
}

/// Runs the call to its end, in parts if it has more than `most` rows.
pub(super) async fn run(
    route: &Route,
    call: &mut Call,
    trace: &RequestTrace,
    order: Option<Order>,
    most: usize,
) -> Result<Answered, Refusal> {
    if let Some(parts) = parts(route, call, most) {
        route.metrics.scattered(parts.calls.len());
        if let Some(answered) = gather(route, &parts, trace, &order).await? {
            return Ok(answered);
        }
        route.metrics.scattered_in_vain();
    }
    reach(route, call, trace, order).await
}

/// None: the call goes out whole.
fn parts(route: &Route, call: &mut Call, most: usize) -> Option<Parts> {
    if Method::of(call.path.path()) != Method::Infer {
        return None;
    }
    let message = framing::unary_message(call.body.make_contiguous()).ok()?;
    let requests = rows::cut(&ModelInferRequest::decode(message).ok()?, most)?;
    let mut headers = call.headers.clone();
    // Answers have to be read here.
    headers.remove("grpc-accept-encoding");
    let mut held = call.held.another();
    let calls = requests.iter().map(|request| {
        let framed = framing::frame(request).ok()?;
        held.try_grow(framed.len()).then(|| Call {
            path: call.path.clone(),
            headers: headers.clone(),
            body: Message::from(framed),
            source: call.source,
            wish: call.wish,
            deadline: call.deadline,
            client_timeout: call.client_timeout,
            hold_back: keepable(route),
            held: call.held.another(),
        })
    });
    let calls = calls.collect::<Option<Vec<Call>>>()?;
    Some(Parts {
        requests,
        calls,
        _held: held,
    })
}

/// How much of answers is kept for one call.
fn keepable(route: &Route) -> usize {
    usize::try_from(route.config.max_request_bytes).unwrap_or(usize::MAX)
}

/// None: the answers make no whole.
async fn gather(
    route: &Route,
    parts: &Parts,
    trace: &RequestTrace,
    order: &Option<Order>,
) -> Result<Option<Answered>, Refusal> {
    let mut waiting = parts.calls.iter().enumerate();
    let mut under_way = FuturesUnordered::new();
    let mut gathered: Vec<Option<ModelInferResponse>> = vec![None; parts.calls.len()];
    let mut first = None;
    let mut held = Vec::new();
    let mut bytes = 0;
    loop {
        while under_way.len() < AT_A_TIME
            && let Some((position, call)) = waiting.next()
        {
            let reaching = reach(route, call, trace, order.clone());
            under_way.push(async move { (position, reaching.await) });
        }
        let Some((position, answered)) = under_way.next().await else {
            break;
        };
        let mut answered = answered?;
        if answered.status != 0 {
            return Ok(Some(answered));
        }
        bytes += answered.answer.body.len();
        if answered.answer.rest.is_some() || bytes > keepable(route) {
            return Ok(None);
        }
        let Some(response) = response(answered.answer.body.make_contiguous()) else {
            return Ok(None);
        };
        gathered[position] = Some(response);
        match position {
            0 => first = Some(answered),
            _ => held.push(answered.answer.held),
        }
    }
    let Some(gathered) = gathered.into_iter().collect::<Option<Vec<_>>>() else {
        return Ok(None);
    };
    let joined = rows::join(&parts.requests, &gathered).ok();
    let framed = joined.and_then(|joined| framing::frame(&joined).ok());
    let (Some(framed), Some(mut answered)) = (framed, first) else {
        return Ok(None);
    };
    answered.answer.head.headers.remove(CONTENT_LENGTH);
    answered.answer.held.must_grow(framed.len());
    answered.answer.body = Message::from(framed);
    Ok(Some(answered))
}

fn response(framed: &Bytes) -> Option<ModelInferResponse> {
    ModelInferResponse::decode(framing::unary_message(framed).ok()?).ok()
}
