/// y is the channels of a, then those of b.
#[derive(Debug)]
pub struct Concat<'a> {
    /// The first channels.
    pub a: &'a [f32],
    /// The others.
    pub b: &'a [f32],
    /// Output, as long as both.
    pub y: &'a mut [f32],
}

impl Concat<'_> {
    /// Computes it.
    pub fn run(self) {
        let (first, second) = self.y.split_at_mut(self.a.len());
        first.copy_from_slice(self.a);
        second.copy_from_slice(self.b);
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        for (y, x) in self.y.iter_mut().zip(self.a.iter().chain(self.b)) {
            *y = *x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::random;

    #[test]
    fn run_is_the_definition() {
        for (a, b) in [(1, 3), (5, 7), (13, 1)] {
            let (a, b) = (random(0, a), random(1, b));
            let mut y = std::vec![0.0; a.len() + b.len()];
            let mut expected = y.clone();
            Concat { a: &a, b: &b, y: &mut y }.run();
            Concat { a: &a, b: &b, y: &mut expected }.reference();
            assert_eq!(y, expected);
        }
    }
}
