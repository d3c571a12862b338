//! A network as a list of nodes, and the builder that writes one down.

use core::fmt;
use std::prelude::v1::*;

use crate::op::{Method, Op, OpError, Parameters, Shape, Time};

/// The output of a node, by the node's place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(pub u16);

impl Value {
    /// The place in the list.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// One node: an operation on the outputs of earlier nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Name, unique in the graph; the key of the node's tensors in a checkpoint.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// What it reads, as many as [`Op::arity`].
    pub inputs: Vec<Value>,
    /// Shape of its output.
    pub shape: Shape,
}

/// What is wrong with a graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum GraphError {
    #[error("node {index} ({name}): {problem}")]
    Node { index: usize, name: String, problem: OpError },
    #[error("node {index} ({name}): it reads node {input}, which is not before it")]
    Order { index: usize, name: String, input: usize },
    #[error("two nodes have the name {0}")]
    Duplicate(String),
    #[error("the graph has no nodes, or more than 65,535")]
    Length,
    #[error("the network's configuration: {0}")]
    Configuration(&'static str),
}

/// A network: node *i* reads only nodes before *i*, and the last one is the output.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    nodes: Vec<Node>,
}

impl Graph {
    /// Checks a list of nodes and makes it a graph; shapes are computed, whatever the list says of them.
    ///
    /// # Errors
    /// Names the first node that breaks a rule.
    pub fn new(mut nodes: Vec<Node>) -> Result<Self, GraphError> {
        if nodes.is_empty() || nodes.len() > usize::from(u16::MAX) {
            return Err(GraphError::Length);
        }
        for index in 0..nodes.len() {
            let node = &nodes[index];
            let name = || node.name.clone();
            if let Some(input) = node.inputs.iter().map(|v| v.index()).find(|&input| input >= index) {
                return Err(GraphError::Order { index, name: name(), input });
            }
            let inputs: Vec<Shape> = node.inputs.iter().map(|v| nodes[v.index()].shape).collect();
            let shape = node.op.output(&inputs);
            nodes[index].shape =
                shape.map_err(|problem| GraphError::Node { index, name: name(), problem })?;
        }
        let mut names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(GraphError::Duplicate(pair[0].into()));
        }
        Ok(Self { nodes })
    }

    /// The nodes, in the order in which they run.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes, to be rebuilt into another graph.
    pub fn into_nodes(self) -> Vec<Node> {
        self.nodes
    }

    /// The node whose output is the network's.
    pub fn output(&self) -> Value {
        Value((self.nodes.len() - 1) as u16)
    }

    /// Shapes of a node's inputs.
    pub fn input_shapes(&self, node: &Node) -> Vec<Shape> {
        node.inputs.iter().map(|v| self.nodes[v.index()].shape).collect()
    }

    /// Sizes of a node's parameters.
    pub fn parameters(&self, node: &Node) -> Parameters {
        node.op.parameters(&self.input_shapes(node))
    }

    /// Number of parameters of all nodes.
    pub fn parameter_count(&self) -> usize {
        self.nodes.iter().map(|node| self.parameters(node).total()).sum()
    }

    /// Multiply-accumulates of one evaluation, for one picture.
    pub fn macs(&self) -> u64 {
        self.nodes.iter().map(|node| node.op.macs(&self.input_shapes(node))).sum()
    }

    /// Multiply-accumulates as the paper's counter sees them: attention is written with `einsum` there, products and
    /// projections alike, and the counter gives `einsum` none.
    pub fn macs_without_attention(&self) -> u64 {
        let attends = |value: &Value| matches!(self.nodes[value.index()].op, Op::Attention { .. });
        let feeds: Vec<Value> = (0..self.nodes.len())
            .map(|i| Value(i as u16))
            .filter(attends)
            .flat_map(|v| self.nodes[v.index()].inputs.clone())
            .collect();
        let counted = |(index, node): &(usize, &Node)| {
            let value = Value(*index as u16);
            !attends(&value) && !feeds.contains(&value) && !node.inputs.first().is_some_and(attends)
        };
        self.nodes
            .iter()
            .enumerate()
            .filter(counted)
            .map(|(_, node)| node.op.macs(&self.input_shapes(node)))
            .sum()
    }

    /// Shape of the picture that the network reads, if it reads one.
    pub fn image(&self) -> Option<Shape> {
        self.nodes.iter().find_map(|node| match node.op {
            Op::Image(shape) => Some(shape),
            _ => None,
        })
    }

    /// For each node, whether its output depends on times and training's labels alone, not on the picture or its class.
    pub fn depends_on_time_alone(&self) -> Vec<bool> {
        let mut alone: Vec<bool> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let given = matches!(node.op, Op::Image(_) | Op::Class { .. });
            alone.push(!given && node.inputs.iter().all(|v| alone[v.index()]));
        }
        alone
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, node) in self.nodes.iter().enumerate() {
            write!(f, "{index:>4} {:<32} {:>12} = {:?}", node.name, node.shape.to_string(), node.op)?;
            for input in &node.inputs {
                write!(f, " %{}", input.0)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Writes a graph down, one call a node.
///
/// The first mistake is kept and returned by [`finish`](Builder::finish), so that a network reads as its formula.
#[derive(Debug, Default)]
pub struct Builder {
    nodes: Vec<Node>,
    scope: String,
    error: Option<GraphError>,
}

impl Builder {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names of the following nodes start with `scope` and a dot; an empty scope adds nothing.
    pub fn scope(&mut self, scope: impl Into<String>) {
        self.scope = scope.into();
    }

    /// The shape of a value.
    pub fn shape(&self, value: Value) -> Shape {
        self.nodes.get(value.index()).map_or(Shape::vector(1), |node| node.shape)
    }

    /// A node of this name with this operation.
    pub fn push(&mut self, name: &str, op: Op, inputs: &[Value]) -> Value {
        let index = self.nodes.len();
        let name = if self.scope.is_empty() { name.to_owned() } else { format!("{}.{name}", self.scope) };
        let shapes: Vec<Shape> = inputs.iter().map(|&v| self.shape(v)).collect();
        // After a mistake the remaining nodes are still listed, with a shape that lets the walk go on.
        let shape = op.output(&shapes).unwrap_or_else(|problem| {
            self.error.get_or_insert(GraphError::Node { index, name: name.clone(), problem });
            shapes.first().copied().unwrap_or(Shape::vector(1))
        });
        self.nodes.push(Node { name, op, inputs: inputs.to_vec(), shape });
        Value(index as u16)
    }

    /// The picture.
    pub fn image(&mut self, shape: Shape) -> Value {
        self.push("image", Op::Image(shape), &[])
    }

    /// One of the two times.
    pub fn time(&mut self, time: Time) -> Value {
        let name = match time {
            Time::From => "t",
            Time::To => "s",
            Time::Span => "span",
        };
        self.push(name, Op::Time(time), &[])
    }

    /// A convolution with bias.
    pub fn conv2d(&mut self, name: &str, x: Value, out: u16, kernel: u8) -> Value {
        self.push(name, Op::Conv2d { out, kernel, bias: true, residual: None, method: Method::Direct }, &[x])
    }

    /// A linear layer on a vector, which is a 1×1 convolution.
    pub fn linear(&mut self, name: &str, x: Value, out: u16) -> Value {
        self.conv2d(name, x, out, 1)
    }

    /// A group norm with min(32, channels / 4) groups, as EDM has it, followed by SiLU if `silu`.
    pub fn group_norm(&mut self, name: &str, x: Value, epsilon: f32, silu: bool) -> Value {
        let groups = (self.shape(x).channels / 4).clamp(1, 32);
        self.push(name, Op::GroupNorm { groups, epsilon, silu }, &[x])
    }

    /// `x · sigmoid(x)`.
    pub fn silu(&mut self, name: &str, x: Value) -> Value {
        self.push(name, Op::Silu, &[x])
    }

    /// `(a + b) · scale`.
    pub fn add(&mut self, name: &str, a: Value, b: Value, scale: f32) -> Value {
        self.push(name, Op::Add { scale }, &[a, b])
    }

    /// The graph.
    ///
    /// # Errors
    /// The first mistake that was made.
    pub fn finish(self) -> Result<Graph, GraphError> {
        match self.error {
            Some(error) => Err(error),
            None => Graph::new(self.nodes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_mistake_is_reported() {
        let mut g = Builder::new();
        let x = g.image(Shape::new(6, 3, 3));
        let y = g.push("half", Op::Downsample, &[x]);
        g.push("third", Op::Attention { heads: 5 }, &[y]);
        let error = g.finish().unwrap_err().to_string();
        assert_eq!(error, "node 1 (half): 6×3×3 cannot be halved");
    }

    #[test]
    fn names_are_unique_and_order_is_checked() {
        let mut g = Builder::new();
        let x = g.image(Shape::new(4, 2, 2));
        g.silu("same", x);
        g.silu("same", x);
        assert_eq!(g.finish(), Err(GraphError::Duplicate("same".into())));

        let node = Node { name: "x".into(), op: Op::Silu, inputs: vec![Value(3)], shape: Shape::vector(1) };
        assert_eq!(Graph::new(vec![node]), Err(GraphError::Order { index: 0, name: "x".into(), input: 3 }));
        assert_eq!(Graph::new(Vec::new()), Err(GraphError::Length));
    }
}
