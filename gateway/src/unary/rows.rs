//! The rows of a call, for clusters that go by them.

use super::attempts::Call;
use crate::fleet::Cluster;
use crate::protocol::method::Method;
use crate::protocol::row_count;

/// How far into a message is looked: names, parameters and the shape of the first input stand there.
const HEAD: usize = 4 << 10;

/// 1 where the cluster does not go by rows, or the call has none.
pub(super) fn of(cluster: &Cluster, call: &Call) -> u32 {
    if cluster.goes_by_rows() && Method::of(call.path.path()) == Method::Infer {
        row_count::of_framed(&call.body.head(HEAD), call.body.len())
    } else {
        1
    }
}
