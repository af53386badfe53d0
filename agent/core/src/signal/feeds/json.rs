//! A number out of any JSON.
//!
//! Owns: finding it, and what it means by two thresholds. Must not: know whose JSON it is.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::Value;

use super::{FeedError, Opinion, Reading};

/// Where the number is, and from where on it is good or bad. With `good` above `bad` more is better, else less is.
#[derive(Clone, PartialEq, Debug)]
pub struct JsonRule {
    /// By RFC 6901, such as `/data/0/score`.
    pub pointer: String,
    /// From here on it is good.
    pub good: f64,
    /// From here on it is bad.
    pub bad: f64,
}

impl JsonRule {
    /// What an answer says of an address; a JSON without a date tells of now.
    ///
    /// # Errors
    /// [`FeedError`] where there is no number at the place.
    pub fn read(&self, text: &str, address: IpAddr, now: Timestamp) -> Result<Reading, FeedError> {
        let all: Value = serde_json::from_str(text).map_err(|_invalid| FeedError::NoJson)?;
        let pointer = self.pointer.clone();
        let found = all.pointer(&self.pointer).filter(|found| !found.is_null());
        let number = match found.ok_or_else(|| FeedError::Nothing { pointer: pointer.clone() })? {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().trim_end_matches('%').trim_end().parse().ok(),
            Value::Bool(truth) => Some(f64::from(u8::from(*truth))),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        };
        let number = number.filter(|number| number.is_finite()).ok_or(FeedError::NoNumber { pointer })?;
        Ok(Reading { address, at: now, opinion: self.judge(number), words: number.to_string() })
    }

    fn judge(&self, number: f64) -> Opinion {
        let more_is_better = self.good > self.bad;
        let reaches = |threshold: f64, up: bool| if up { number >= threshold } else { number <= threshold };
        if reaches(self.bad, !more_is_better) {
            Opinion::Bad
        } else if reaches(self.good, more_is_better) {
            Opinion::Good
        } else {
            Opinion::Middling
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rule: &JsonRule, text: &str) -> Result<Opinion, FeedError> {
        let address = IpAddr::from([203, 0, 113, 1]);
        rule.read(text, address, Timestamp::UNIX_EPOCH).map(|reading| reading.opinion)
    }

    #[test]
    fn a_number_is_judged_by_two_thresholds_either_way_round() {
        let score = JsonRule { pointer: "/data/0/score".into(), good: 80.0, bad: 50.0 };
        for (number, opinion) in [
            ("100", Opinion::Good),
            ("\"80\"", Opinion::Good),
            ("79.9", Opinion::Middling),
            ("50", Opinion::Bad),
            ("\" 12 % \"", Opinion::Bad),
            ("-1", Opinion::Bad),
        ] {
            assert_eq!(
                read(&score, &format!("{{\"data\":[{{\"score\":{number}}}]}}")),
                Ok(opinion),
                "{number}"
            );
        }
        let rate = JsonRule { pointer: "/rate".into(), good: 0.001, bad: 0.003 };
        for (number, opinion) in [("0", Opinion::Good), ("0.002", Opinion::Middling), ("0.003", Opinion::Bad)]
        {
            assert_eq!(read(&rate, &format!("{{\"rate\":{number}}}")), Ok(opinion), "{number}");
        }
        let listed = JsonRule { pointer: "/listed".into(), good: 0.0, bad: 1.0 };
        assert_eq!(read(&listed, "{\"listed\":true}"), Ok(Opinion::Bad));
    }

    #[test]
    fn what_is_no_number_is_unknown() {
        let rule = JsonRule { pointer: "/score".into(), good: 80.0, bad: 50.0 };
        assert_eq!(read(&rule, "<html>"), Err(FeedError::NoJson));
        for nothing in ["{}", "{\"score\":null}", "[]"] {
            assert!(matches!(read(&rule, nothing), Err(FeedError::Nothing { .. })), "{nothing}");
        }
        for other in ["{\"score\":\"high\"}", "{\"score\":[1]}", "{\"score\":\"NaN\"}", "{\"score\":\"inf\"}"]
        {
            assert!(matches!(read(&rule, other), Err(FeedError::NoNumber { .. })), "{other}");
        }
    }
}
