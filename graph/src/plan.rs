//! Where each value lies in the arena.
//!
//! The arena is the only memory that a network needs besides its file. Values that are alive together have ranges of
//! their own; a node that may write over an input which nobody reads later gets that input's range. The scratch memory of a
//! node's kernel has a range too, while the node runs.

use std::prelude::v1::*;

use crate::graph::{Graph, Node};
use crate::model::{ALIGN, scratch_bytes};
use crate::op::Op;
use crate::quant;

/// A memory plan of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// For each node, where its output begins, in bytes, a multiple of 64. `None`: it takes no memory, because it
    /// depends on time alone and is a constant in a model file.
    pub offsets: Vec<Option<u32>>,
    /// For each node, where the scratch memory of its kernel begins; 0 where it needs none.
    pub scratch: Vec<u32>,
    /// Size of the arena. A graph that needs more than 4 GiB has 2³² - 1 here and cannot be written to a file.
    pub bytes: u32,
    /// No plan can be smaller than this: the most bytes of values and scratch memory of one time.
    pub lower_bound: u32,
}

/// Memory that one value, or a chain of values that are written over each other, or the scratch memory of one node, holds for
/// some time.
#[derive(Clone, Copy, Debug)]
struct Buffer {
    bytes: u64,
    /// The first and the last node during which it is held.
    first: usize,
    last: usize,
}

impl Buffer {
    fn meets(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Plans the arena for values of `element_bytes` an element.
///
/// The picture is kept through the whole run, since a step ends by adding the output to it, and so is the output from
/// the last node on. Everything else lives from its node to its last reader.
pub fn plan(graph: &Graph, element_bytes: usize) -> Plan {
    let scratch = |node: &Node| scratch_bytes(node.op, &graph.input_shapes(node), element_bytes);
    plan_values(graph, &vec![element_bytes; graph.nodes().len()], scratch)
}

/// Plans the arena for a file of integers, where some values are 16 bits wide.
pub fn plan_integers(graph: &Graph, wide: &[bool]) -> Plan {
    let scratch = |node: &Node| quant::scratch_bytes(node.op, &graph.input_shapes(node));
    let bytes: Vec<usize> = wide.iter().map(|&wide| 1 << usize::from(wide)).collect();
    plan_values(graph, &bytes, scratch)
}

/// Plans the arena for values of so many bytes an element, and kernels with so much scratch memory.
fn plan_values(graph: &Graph, element_bytes: &[usize], scratch_bytes: impl Fn(&Node) -> u64) -> Plan {
    let (mut buffers, of_node) = buffers(graph, element_bytes);
    let folded = graph.depends_on_time_alone();
    let mut scratch_of_node = Vec::new();
    for (index, node) in graph.nodes().iter().enumerate() {
        let bytes = if folded[index] { 0 } else { scratch_bytes(node).next_multiple_of(ALIGN as u64) };
        scratch_of_node.push((bytes > 0).then_some(buffers.len()));
        if bytes > 0 {
            buffers.push(Buffer { bytes, first: index, last: index });
        }
    }
    let placed = orders(&buffers)
        .into_iter()
        .map(|order| search(&buffers, order))
        .min_by_key(|offsets| end(&buffers, offsets))
        .unwrap_or_default();

    let alive =
        |time| buffers.iter().filter(move |b| (b.first..=b.last).contains(&time)).map(|b| b.bytes).sum();
    let peak: u64 = (0..graph.nodes().len()).map(alive).max().unwrap_or(0);
    let narrow = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
    let offset = |buffer: Option<usize>| buffer.map(|buffer| narrow(placed[buffer]));
    Plan {
        offsets: of_node.into_iter().map(offset).collect(),
        scratch: scratch_of_node.into_iter().map(|buffer| offset(buffer).unwrap_or(0)).collect(),
        bytes: narrow(end(&buffers, &placed)),
        lower_bound: narrow(peak),
    }
}

/// The buffers of a graph, and which one each node writes.
fn buffers(graph: &Graph, element_bytes: &[usize]) -> (Vec<Buffer>, Vec<Option<usize>>) {
    let nodes = graph.nodes();
    let forever = nodes.len();
    let mut last: Vec<usize> = (0..nodes.len()).collect();
    for (index, node) in nodes.iter().enumerate() {
        for input in &node.inputs {
            last[input.index()] = index;
        }
    }
    last[graph.output().index()] = forever;
    for (index, node) in nodes.iter().enumerate() {
        if matches!(node.op, Op::Image(_)) {
            last[index] = forever;
        }
    }

    let folded = graph.depends_on_time_alone();
    let mut buffers: Vec<Buffer> = Vec::new();
    let mut of_node: Vec<Option<usize>> = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        let over = overwritten(graph, node)
            .filter(|&input| last[input] == index && element_bytes[input] == element_bytes[index])
            .and_then(|input| of_node[input]);
        of_node.push(match over {
            _ if folded[index] => None,
            Some(buffer) => {
                buffers[buffer].last = last[index];
                Some(buffer)
            }
            None => {
                let bytes = (node.shape.elements() as u64 * element_bytes[index] as u64)
                    .next_multiple_of(ALIGN as u64);
                // The picture is there before the first node.
                let first = if matches!(node.op, Op::Image(_)) { 0 } else { index };
                buffers.push(Buffer { bytes, first, last: last[index] });
                Some(buffers.len() - 1)
            }
        });
    }
    (buffers, of_node)
}

/// The input that a node may write over, if nobody needs it later.
fn overwritten(graph: &Graph, node: &Node) -> Option<usize> {
    let distinct = node.inputs.first() != node.inputs.get(1);
    (0..node.inputs.len())
        .filter(|&input| distinct && node.op.in_place(input))
        .map(|input| node.inputs[input].index())
        .find(|&input| graph.nodes()[input].shape == node.shape)
}

/// Orders in which to try to place the buffers.
fn orders(buffers: &[Buffer]) -> Vec<Vec<usize>> {
    let by = |key: &dyn Fn(&Buffer) -> (u64, u64)| {
        let mut order: Vec<usize> = (0..buffers.len()).collect();
        order.sort_by_key(|&index| (key(&buffers[index]), index));
        order
    };
    let length = |b: &Buffer| (b.last - b.first + 1) as u64;
    vec![
        by(&|b| (b.first as u64, 0)),
        by(&|b| (u64::MAX - b.bytes, b.first as u64)),
        by(&|b| (u64::MAX - b.bytes, u64::MAX - length(b))),
        by(&|b| (u64::MAX - length(b), u64::MAX - b.bytes)),
        by(&|b| (u64::MAX - b.bytes.saturating_mul(length(b)), b.first as u64)),
    ]
}

/// Rounds of [`search`] for each order.
const ROUNDS: usize = 64;

/// Places buffers in this order, then again with the topmost one first, and so on; the smallest result.
fn search(buffers: &[Buffer], mut order: Vec<usize>) -> Vec<u64> {
    let (mut best, mut least) = (Vec::new(), u64::MAX);
    for _ in 0..ROUNDS {
        let offsets = place(buffers, &order);
        let top = end(buffers, &offsets);
        if let Some(topmost) = order.iter().position(|&index| offsets[index] + buffers[index].bytes == top) {
            order[..=topmost].rotate_right(1);
        }
        if top < least {
            (best, least) = (offsets, top);
        }
    }
    best
}

/// Places buffers in this order, each into the smallest gap that holds it between those already placed.
fn place(buffers: &[Buffer], order: &[usize]) -> Vec<u64> {
    let mut offsets = vec![0; buffers.len()];
    let mut placed: Vec<usize> = Vec::new();
    for &index in order {
        let buffer = &buffers[index];
        // Neighbours by offset; the gap after the last one has no end.
        let (mut cursor, mut best) = (0, None);
        for &other in placed.iter().filter(|&&other| buffers[other].meets(buffer)) {
            let gap = u64::saturating_sub(offsets[other], cursor);
            if gap >= buffer.bytes && best.is_none_or(|(size, _)| gap < size) {
                best = Some((gap, cursor));
            }
            cursor = cursor.max(offsets[other] + buffers[other].bytes);
        }
        offsets[index] = best.map_or(cursor, |(_, offset)| offset);
        let position = placed.partition_point(|&other| offsets[other] <= offsets[index]);
        placed.insert(position, index);
    }
    offsets
}

/// Where the last buffer ends.
fn end(buffers: &[Buffer], offsets: &[u64]) -> u64 {
    buffers.iter().zip(offsets).map(|(buffer, offset)| offset + buffer.bytes).max().unwrap_or(0)
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::graph::{Builder, Value};
    use crate::op::{Method, Shape, Time};
    use crate::unet::{SConditioning, Unet};
    use core::ops::Range;
    use proptest::prelude::*;

    /// A random network: each choice adds a node that fits somewhere.
    fn graph(choices: &[(u8, u16, u16)]) -> Graph {
        let mut g = Builder::new();
        let time = g.time(Time::From);
        let image = g.image(Shape::new(6, 4, 4));
        let mut values = vec![image, time];
        for (index, &(kind, a, b)) in choices.iter().enumerate() {
            let name = format!("n{index}");
            let pick = |k: u16| values[k as usize % values.len()];
            let (x, y) = (pick(a), pick(b));
            let op = match kind % 14 {
                0 => Op::Conv2d { out: 6, kernel: 3, bias: true, residual: None, method: Method::Direct },
                1 => Op::Conv2d {
                    out: g.shape(y).channels,
                    kernel: 1,
                    bias: true,
                    residual: Some(0.5),
                    method: Method::Direct,
                },
                2 => Op::GroupNorm { groups: 1, epsilon: 1e-6, silu: true },
                3 => Op::Silu,
                4 => Op::Add { scale: 1.0 },
                5 => Op::Concat,
                6 => Op::Downsample,
                7 => Op::Upsample,
                8 => Op::Multiply,
                9 => Op::ScaleShift { silu: false },
                10 => Op::Blur { near: 0.25, far: 0.0 },
                11 => Op::Border { by: 1 },
                12 => Op::Border { by: -1 },
                _ => Op::Attention { heads: 1 },
            };
            let inputs = [x, y];
            let shapes = inputs.map(|v| g.shape(v));
            let arity = op.arity();
            if op.output(&shapes[..arity]).is_ok_and(|s| s.elements() < 1 << 16) {
                values.push(g.push(&name, op, &inputs[..arity]));
            }
        }
        g.finish().unwrap()
    }

    /// Whether a value is in memory while a node runs, by the definition.
    fn alive(graph: &Graph, value: usize, node: usize) -> bool {
        let is_image = matches!(graph.nodes()[value].op, Op::Image(_));
        let read = graph.nodes()[node..].iter().any(|n| n.inputs.contains(&Value(value as u16)));
        is_image || value == node || (value <= node && read)
    }

    proptest! {
        #[test]
        fn values_alive_together_never_overlap(
            choices in prop::collection::vec(any::<(u8, u16, u16)>(), 0..60),
            element_bytes in prop::sample::select(&[1usize, 4][..]),
        ) {
            let graph = graph(&choices);
            let plan = plan(&graph, element_bytes);
            let range = |v: usize| {
                let bytes = graph.nodes()[v].shape.elements() * element_bytes;
                plan.offsets[v].map(|offset| offset as usize..offset as usize + bytes)
            };
            let folded = graph.depends_on_time_alone();
            for (index, node) in graph.nodes().iter().enumerate() {
                prop_assert_eq!(range(index).is_none(), folded[index]);
                if let Some(range) = range(index) {
                    prop_assert!(range.start % ALIGN == 0 && range.end <= plan.bytes as usize);
                }
                let here: Vec<usize> = (0..graph.nodes().len()).filter(|&v| alive(&graph, v, index)).collect();
                let need = scratch_bytes(node.op, &graph.input_shapes(node), element_bytes) as usize;
                let start = plan.scratch[index] as usize;
                if folded[index] || need == 0 {
                    prop_assert_eq!(start, 0);
                } else {
                    let apart = |value: Range<usize>| value.end <= start || start + need <= value.start;
                    prop_assert!(start.is_multiple_of(ALIGN) && start + need <= plan.bytes as usize);
                    prop_assert!(here.iter().filter_map(|&v| range(v)).all(apart));
                }
                for &a in &here {
                    for &b in here.iter().filter(|&&b| b != a) {
                        let (Some(ra), Some(rb)) = (range(a), range(b)) else { continue };
                        let reads = node.inputs.iter().position(|v| v.index() == a);
                        let over = b == index
                            && ra == rb
                            && reads.is_some_and(|input| node.op.in_place(input))
                            && (index + 1 == graph.nodes().len() || !alive(&graph, a, index + 1));
                        prop_assert!(over || a == index || ra.end <= rb.start || rb.end <= ra.start);
                    }
                }
            }
            prop_assert!(plan.lower_bound <= plan.bytes);
        }
    }

    #[test]
    fn chains_are_computed_in_place() {
        let mut g = Builder::new();
        let x = g.image(Shape::new(4, 8, 8));
        let h = g.conv2d("conv", x, 4, 3);
        let h = g.group_norm("norm", h, 1e-6, false);
        let h = g.silu("silu", h);
        g.add("sum", h, x, 1.0);
        let plan = plan(&g.finish().unwrap(), 4);
        assert_eq!(plan.offsets, [Some(0), Some(1024), Some(1024), Some(1024), Some(1024)]);
        assert_eq!((plan.scratch, plan.bytes), (vec![0, 2048, 2048, 0, 0], 2048 + 64));
    }

    #[test]
    fn scratch_memory_is_where_values_lie_at_other_times() {
        let mut g = Builder::new();
        let x = g.image(Shape::new(16, 8, 8));
        // Attention needs as much as all, while nothing but its input and its output is alive.
        let h = g.conv2d("qkv", x, 12, 1);
        let h = g.push("attention", Op::Attention { heads: 1 }, &[h]);
        let many = g.conv2d("many", h, 64, 1);
        g.conv2d("few", many, 16, 1);
        let plan = plan(&g.finish().unwrap(), 4);
        let bytes = |channels: u32| channels * 64 * 4;
        assert!(plan.scratch[2] > 0);
        assert_eq!(plan.bytes, bytes(16 + 64 + 16));
    }

    #[test]
    fn plans_of_the_presets_are_as_small_as_any() {
        for name in ["3m", "7m", "16m", "28m"] {
            let unet = Unet { s_conditioning: SConditioning::TiedMean, ..Unet::preset(name, None).unwrap() };
            let plan = plan(&unet.graph().unwrap(), 4);
            assert_eq!(plan.bytes, plan.lower_bound, "{name}");
        }
    }
}
