//! Where the nodes of a model's graph really went, as ONNX Runtime says after it made the session.
//!
//! Registering a provider is an offer: it takes the nodes that it has kernels for, and the CPU takes the rest.

use std::ffi::CStr;

use ort::AsPointer;
use ort::session::Session;

use crate::engine::NodeShare;

/// Makes the runtime keep what `nodes` asks for.
pub(super) const RECORD: (&str, &str) = ("session.record_ep_graph_assignment_info", "1");

/// Every provider that has nodes; empty if the session did not record them or the graph has none.
#[expect(
    unsafe_code,
    reason = "the binding does not offer this question of the C API"
)]
pub(super) fn nodes(session: &Session) -> Vec<NodeShare> {
    let api = ort::api();
    let mut subgraphs = std::ptr::null();
    let mut count = 0;
    // SAFETY: the session is alive during the call. What it gives are `count` pointers that the session owns, or
    // an error, which is released here, and no pointers.
    let asked = unsafe {
        ort::Error::result_from_status((api.Session_GetEpGraphAssignmentInfo)(
            session.ptr(),
            &mut subgraphs,
            &mut count,
        ))
    };
    if asked.is_err() || subgraphs.is_null() {
        return Vec::new();
    }
    let mut shares: Vec<NodeShare> = Vec::new();
    for position in 0..count {
        let (mut name, mut list, mut nodes) = (std::ptr::null(), std::ptr::null(), 0);
        // SAFETY: `position` is below `count`, and the session, which is alive, owns the subgraph, its name (a
        // string with an end) and its list of nodes.
        let provider = unsafe {
            let subgraph = *subgraphs.add(position);
            let named = (api.EpAssignedSubgraph_GetEpName)(subgraph, &mut name);
            let listed = (api.EpAssignedSubgraph_GetNodes)(subgraph, &mut list, &mut nodes);
            let sound = ort::Error::result_from_status(named)
                .and(ort::Error::result_from_status(listed))
                .is_ok();
            if !sound || name.is_null() {
                continue;
            }
            CStr::from_ptr(name).to_string_lossy()
        };
        match shares.iter_mut().find(|share| share.provider == provider) {
            Some(share) => share.nodes += nodes,
            None => shares.push(NodeShare {
                provider: provider.into_owned(),
                nodes,
            }),
        }
    }
    shares
}
