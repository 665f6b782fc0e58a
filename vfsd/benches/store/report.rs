//! What was measured, as a table for people or one object for machines.

use std::collections::BTreeMap;

/// Named results in the order in which they were measured.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

struct Row {
    key: &'static str,
    label: &'static str,
    value: Value,
}

enum Value {
    /// Milliseconds.
    Times {
        p50: f64,
        p99: f64,
    },
    Number(f64),
    Absent(String),
}

impl Report {
    /// Adds samples in milliseconds.
    pub fn times(&mut self, key: &'static str, label: &'static str, mut samples: Vec<f64>) {
        samples.sort_by(f64::total_cmp);
        let at = |part: f64| samples[((samples.len() - 1) as f64 * part).round() as usize];
        let value = if samples.is_empty() {
            Value::Absent("no samples".into())
        } else {
            Value::Times {
                p50: at(0.5),
                p99: at(0.99),
            }
        };
        self.rows.push(Row { key, label, value });
    }

    /// Adds one number.
    pub fn number(&mut self, key: &'static str, label: &'static str, number: f64) {
        self.rows.push(Row {
            key,
            label,
            value: Value::Number(number),
        });
    }

    /// Says why a row is not there.
    pub fn absent(&mut self, key: &'static str, label: &'static str, why: String) {
        self.rows.push(Row {
            key,
            label,
            value: Value::Absent(why),
        });
    }

    fn p50(&self, key: &str) -> Option<f64> {
        self.rows
            .iter()
            .find(|row| row.key == key)
            .and_then(|row| match row.value {
                Value::Times { p50, .. } => Some(p50),
                _ => None,
            })
    }

    /// Prints the table, and what the aims are made of.
    pub fn print_table(&self) {
        println!("{:<46} {:>10} {:>10}", "", "p50", "p99");
        for row in &self.rows {
            match &row.value {
                Value::Times { p50, p99 } => {
                    println!("{:<46} {p50:>7.2} ms {p99:>7.2} ms", row.label)
                }
                Value::Number(number) => println!("{:<46} {number:>10.0}", row.label),
                Value::Absent(why) => println!("{:<46} not measured: {why}", row.label),
            }
        }
        println!();
        let round = self.p50("raw_round_ms");
        let floor = self.p50("fuse_floor_ms");
        if let (Some(round), Some(floor), Some(save)) =
            (round, floor, self.p50("save_overwrite_ms"))
        {
            println!(
                "overwrite / (raw round + FUSE floor)            {:.2}   (aim: 1.20)",
                save / (round + floor)
            );
        }
        if let (Some(round), Some(save)) = (round, self.p50("save_new_ms")) {
            println!(
                "new file / raw round                            {:.2}   (aim: 2.20)",
                save / round
            );
        }
        if let (Some(etcd), Some(save)) = (self.p50("etcd_put_ms"), self.p50("save_overwrite_ms")) {
            println!(
                "overwrite / etcd put                            {:.2}   (aim: below 1)",
                save / etcd
            );
        }
    }

    /// Prints one object.
    pub fn print_json(&self) {
        let rows = self.rows.iter().map(|row| {
            let value = match &row.value {
                Value::Times { p50, p99 } => serde_json::json!({ "p50": p50, "p99": p99 }),
                Value::Number(number) => serde_json::json!(number),
                Value::Absent(_) => serde_json::Value::Null,
            };
            (row.key, value)
        });
        println!("{}", serde_json::json!(rows.collect::<BTreeMap<_, _>>()));
    }
}
