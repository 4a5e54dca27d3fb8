//! Where the nodes of a model's graph really went, as ONNX Runtime says after it made the session.
//!
//! Registering a provider is an offer: it takes the nodes that it has kernels for, and the CPU takes the rest.

use std::ffi::CStr;

use ort::AsPointer;
use ort::session::Session;

use crate::engine::NodeShare;

/// Operators that run other nodes as often as what they are given says.
const CONTROL: [&str; 4] = ["Loop", "Scan", "If", "SequenceMap"];

/// What the runtime says of a graph.
#[derive(Debug, Default)]
pub(super) struct Assignment {
    /// Every provider that has nodes; empty if the session did not record them or the graph has none.
    pub shares: Vec<NodeShare>,
    /// Some node runs others as often as what it is given says, or it is not known.
    pub is_controlled: bool,
}

/// Makes the runtime keep what `read` asks for.
pub(super) const RECORD: (&str, &str) = ("session.record_ep_graph_assignment_info", "1");

#[expect(
    unsafe_code,
    reason = "the binding does not offer this question of the C API"
)]
pub(super) fn read(session: &Session) -> Assignment {
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
        return Assignment {
            is_controlled: true,
            ..Assignment::default()
        };
    }
    let mut shares: Vec<NodeShare> = Vec::new();
    let mut is_controlled = false;
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
                is_controlled = true;
                continue;
            }
            CStr::from_ptr(name).to_string_lossy()
        };
        for number in 0..nodes {
            let mut operator = std::ptr::null();
            // SAFETY: `number` is below the length of the list, and the session, which is alive, owns the node and the
            // name of its operator, a string with an end.
            is_controlled |= unsafe {
                let node = *list.add(number);
                let told = (api.EpAssignedNode_GetOperatorType)(node, &mut operator);
                let told = ort::Error::result_from_status(told).is_ok() && !operator.is_null();
                !told
                    || CONTROL
                        .iter()
                        .any(|name| CStr::from_ptr(operator).to_bytes() == name.as_bytes())
            };
        }
        match shares.iter_mut().find(|share| share.provider == provider) {
            Some(share) => share.nodes += nodes,
            None => shares.push(NodeShare {
                provider: provider.into_owned(),
                nodes,
            }),
        }
    }
    Assignment {
        shares,
        is_controlled,
    }
}
