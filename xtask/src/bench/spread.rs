//! What many figures come to: the middle, how far they spread, and how sure the middle is.
//!
//! Owns: those rules. Must not: assume a distribution.

/// Median, quartiles, and an interval of at least 95 % for the median.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) quartiles: [f64; 2],
    pub(super) interval: [f64; 2],
}

impl Spread {
    /// `None`: of nothing.
    ///
    /// The interval lies between the k-th smallest and the k-th largest figure, k the largest for which a binomial of n
    /// and 1/2 is below k with at most 2.5 % (the sign test turned round; Conover, Practical Nonparametric Statistics,
    /// 3rd ed., 3.2). Of fewer than six figures it is all of them, and is less sure.
    pub(super) fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        let last = figures.len().checked_sub(1)?;
        let at = |part: f64| {
            let place = last as f64 * part;
            let (low, high) = (figures[place.floor() as usize], figures[place.ceil() as usize]);
            low + (high - low) * place.fract()
        };
        let k = rank(figures.len());
        Some(Self {
            median: at(0.5),
            quartiles: [at(0.25), at(0.75)],
            interval: [figures[k - 1], figures[figures.len() - k]],
        })
    }
}

fn rank(n: usize) -> usize {
    // The probability of i, from 0 on, and of all up to it.
    let (mut one, mut sum, mut k) = (0.5f64.powi(i32::try_from(n).unwrap_or(i32::MAX)), 0.0, 0);
    while k < n {
        sum += one;
        if sum > 0.025 {
            break;
        }
        k += 1;
        one *= (n - k + 1) as f64 / k as f64;
    }
    k.max(1)
}

#[cfg(test)]
mod tests {
    use super::{Spread, rank};

    #[test]
    fn ranks_are_those_of_the_tables() {
        // Conover, table A3: n = 10: 2nd and 9th; 20: 6th and 15th; 40: 14th and 27th.
        assert_eq!([rank(1), rank(5), rank(6), rank(10), rank(20), rank(40)], [1, 1, 1, 2, 6, 14]);
    }

    #[test]
    fn the_middle_of_an_even_number_lies_between() {
        let spread = Spread::of(vec![4.0, 1.0, 2.0, 3.0]);
        let wanted = Spread { median: 2.5, quartiles: [1.75, 3.25], interval: [1.0, 4.0] };
        assert_eq!(spread, Some(wanted));
        assert_eq!(Spread::of(vec![]), None);
    }
}
