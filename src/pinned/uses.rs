//! Who may still use a block after it is dropped: streams, and graphs that were captured.

use std::sync::Arc;

use super::capture::Graph;
use crate::device::Stream;

/// Streams and graphs. Nearly always one stream at most, which takes no memory from the heap.
#[derive(Debug, Default)]
pub(super) struct Uses {
    first: Option<Stream>,
    others: Vec<Stream>,
    /// By rising number, each once.
    graphs: Vec<Arc<Graph>>,
}

impl Uses {
    /// Notes a stream, or the graph it is captured into.
    pub(super) fn add(&mut self, stream: &Stream, graph: Option<Arc<Graph>>) {
        if let Some(graph) = graph {
            if let Err(at) = self.graphs.binary_search_by_key(&graph.id, |known| known.id) {
                self.graphs.insert(at, graph);
            }
        } else if self.first.is_none() {
            self.first = Some(stream.clone());
        } else if self.streams().all(|known| known != stream) {
            self.others.push(stream.clone());
        }
    }

    /// The streams.
    pub(super) fn streams(&self) -> impl Iterator<Item = &Stream> + Clone {
        self.first.iter().chain(&self.others)
    }

    /// True when nothing is noted.
    #[inline]
    pub(super) fn is_none(&self) -> bool {
        self.first.is_none() && self.graphs.is_empty()
    }

    /// Takes the graph out that keeps the block first. In the order of their numbers, so that
    /// no two graphs keep each other.
    pub(super) fn take_graph(&mut self) -> Option<Arc<Graph>> {
        (!self.graphs.is_empty()).then(|| self.graphs.remove(0))
    }
}
