//! As much of etcd's API (v3, JSON over HTTP) as membership takes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What an etcd that is there takes at most for an answer.
const ANSWER_BOUND: Duration = Duration::from_secs(2);
/// Answers are short: records of some hundred bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Where one member of etcd serves clients: `HOST:PORT` or `http://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(String);

/// Text that is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no endpoint of etcd: write http://HOST:PORT (https is not spoken)")]
pub struct BadEndpoint {
    given: String,
}

/// Why etcd did not do as it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// No member answers.
    #[error("etcd does not answer at {endpoints}")]
    Unreachable {
        /// All that were asked.
        endpoints: String,
        /// What became of the last try.
        source: Box<ureq::Error>,
    },
    /// A member answers, and refuses.
    #[error("etcd refuses {call}: {why}")]
    Refused {
        /// What was asked.
        call: &'static str,
        /// Its own words.
        why: String,
    },
    /// The answer is not one of etcd's.
    #[error("the answer to {call} is not one of etcd's")]
    Answer {
        /// What was asked.
        call: &'static str,
    },
}

/// A lease, by its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeaseId(String);

/// A key with its value and the lease that it is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) value: Vec<u8>,
    pub(super) lease: LeaseId,
}

/// A client of etcd.
pub(super) struct Etcd {
    endpoints: Vec<Endpoint>,
    /// The endpoint that answered last is asked first.
    preferred: AtomicUsize,
    agent: ureq::Agent,
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let host = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let port = host.rsplit_once(':').filter(|(name, _)| !name.is_empty()).and_then(|(_, port)| port.parse().ok());
        let known = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
        match port {
            Some(1..=u16::MAX) if host.chars().all(known) => Ok(Self(format!("http://{host}"))),
            _ => Err(BadEndpoint { given: text.chars().take(80).collect() }),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Etcd {
    pub(super) fn new(endpoints: Vec<Endpoint>) -> Self {
        Self::bounded(endpoints, ANSWER_BOUND)
    }

    /// The same one, of which no member is waited for longer than this.
    pub(super) fn with_bound(&self, bound: Duration) -> Self {
        Self::bounded(self.endpoints.clone(), bound.min(ANSWER_BOUND))
    }

    fn bounded(endpoints: Vec<Endpoint>, bound: Duration) -> Self {
        assert!(!endpoints.is_empty(), "whoever names an etcd names an endpoint of it");
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(bound))
            .http_status_as_error(false)
            // Members are reached as they are named, whatever the environment says of proxies.
            .proxy(None)
            .build();
        Self { endpoints, preferred: AtomicUsize::new(0), agent: config.into() }
    }

    pub(super) fn endpoints(&self) -> String {
        self.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    /// A lease that lasts for so many seconds, or longer: etcd has a least time. Says for how long.
    pub(super) fn grant(&self, seconds: u64) -> Result<(LeaseId, Duration), EtcdError> {
        const CALL: &str = "lease/grant";
        let answer = self.call(CALL, &json!({ "TTL": seconds.to_string() }))?;
        let id = answer["ID"].as_str().filter(|id| *id != "0").ok_or(EtcdError::Answer { call: CALL })?;
        let seconds = number(&answer["TTL"]).filter(|seconds| *seconds > 0).ok_or(EtcdError::Answer { call: CALL })?;
        Ok((LeaseId(id.to_owned()), Duration::from_secs(seconds)))
    }

    /// Renews a lease. Says for how long; `None`: it is over.
    pub(super) fn keep_alive(&self, lease: &LeaseId) -> Result<Option<Duration>, EtcdError> {
        const CALL: &str = "lease/keepalive";
        let answer = self.call(CALL, &json!({ "ID": lease.0 }))?;
        let result = answer.get("result").ok_or(EtcdError::Answer { call: CALL })?;
        Ok(number(&result["TTL"]).filter(|seconds| *seconds > 0).map(Duration::from_secs))
    }

    /// Ends a lease, with all that is bound to it.
    pub(super) fn revoke(&self, lease: &LeaseId) -> Result<(), EtcdError> {
        self.call("lease/revoke", &json!({ "ID": lease.0 })).map(drop)
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Entry>, EtcdError> {
        const CALL: &str = "kv/range";
        let answer = self.call(CALL, &json!({ "key": BASE64.encode(key) }))?;
        let Some(found) = answer["kvs"].get(0) else { return Ok(None) };
        let value = BASE64.decode(found["value"].as_str().unwrap_or_default());
        let lease = LeaseId(found["lease"].as_str().unwrap_or("0").to_owned());
        Ok(Some(Entry { value: value.map_err(|_| EtcdError::Answer { call: CALL })?, lease }))
    }

    /// The values of all keys that begin so.
    pub(super) fn list(&self, prefix: &str) -> Result<Vec<Vec<u8>>, EtcdError> {
        const CALL: &str = "kv/range";
        let mut end = prefix.as_bytes().to_vec();
        *end.last_mut().expect("a prefix is not empty") += 1;
        let answer = self.call(CALL, &json!({ "key": BASE64.encode(prefix), "range_end": BASE64.encode(end) }))?;
        let found = answer["kvs"].as_array().map(Vec::as_slice).unwrap_or_default();
        let value = |entry: &Value| BASE64.decode(entry["value"].as_str().unwrap_or_default());
        found.iter().map(|entry| value(entry).map_err(|_| EtcdError::Answer { call: CALL })).collect()
    }

    pub(super) fn put(&self, key: &str, value: &[u8], lease: &LeaseId) -> Result<(), EtcdError> {
        self.call("kv/put", &put(key, value, lease)).map(drop)
    }

    /// Puts a key that is not there. False: it is there.
    pub(super) fn claim(&self, key: &str, value: &[u8], lease: &LeaseId) -> Result<bool, EtcdError> {
        let absent =
            json!({ "key": BASE64.encode(key), "target": "CREATE", "result": "EQUAL", "create_revision": "0" });
        let request = json!({ "compare": [absent], "success": [{ "request_put": put(key, value, lease) }] });
        let answer = self.call("kv/txn", &request)?;
        Ok(answer["succeeded"].as_bool().unwrap_or(false))
    }

    /// Asks one member after the other until one answers. A member without a leader answers nothing, or that it cannot now.
    fn call(&self, call: &'static str, request: &Value) -> Result<Value, EtcdError> {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut failed = None;
        for turn in 0..self.endpoints.len() {
            let member = (first + turn) % self.endpoints.len();
            match self.ask(&self.endpoints[member], call, request) {
                Ok(answer) => {
                    self.preferred.store(member, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.expect("there is an endpoint"))
    }

    fn ask(&self, endpoint: &Endpoint, call: &'static str, request: &Value) -> Result<Value, EtcdError> {
        let unreachable = |source| EtcdError::Unreachable { endpoints: self.endpoints(), source: Box::new(source) };
        let sent = self.agent.post(format!("{endpoint}/v3/{call}")).content_type("application/json");
        let mut answer = sent.send(request.to_string()).map_err(unreachable)?;
        let status = answer.status();
        let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().map_err(unreachable)?;
        // A stream of one message, as keepalive answers, is one line.
        let value: Value = serde_json::from_str(text.trim()).unwrap_or(Value::Null);
        match (value.get("error"), status.is_success()) {
            (None, true) if value.is_object() => Ok(value),
            (None, true) => Err(EtcdError::Answer { call }),
            (Some(Value::String(why)), _) => Err(EtcdError::Refused { call, why: why.clone() }),
            (Some(why), _) => Err(EtcdError::Refused {
                call,
                why: why["message"].as_str().unwrap_or("it does not say why").to_owned(),
            }),
            (None, false) => Err(EtcdError::Refused { call, why: format!("HTTP {status}") }),
        }
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Etcd({})", self.endpoints())
    }
}

fn put(key: &str, value: &[u8], lease: &LeaseId) -> Value {
    json!({ "key": BASE64.encode(key), "value": BASE64.encode(value), "lease": lease.0 })
}

/// Numbers of 64 bits are texts in its JSON.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_people_write_them() {
        for good in ["http://10.77.0.1:2379", "10.77.0.1:2379", "http://[::1]:2379/", "etcd-1.local:1"] {
            let endpoint: Endpoint = good.parse().unwrap();
            assert_eq!(endpoint.to_string().parse(), Ok(endpoint), "{good}");
        }
        for bad in ["", "http://", "https://a:1", "a", "a:", ":2379", "a:0", "a:65536", "a:1/path", "a b:1"] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn nobody_there_is_said_with_all_endpoints() {
        let etcd = Etcd::new(["127.0.0.1:1", "127.0.0.1:2"].map(|text| text.parse().unwrap()).to_vec());
        let error = etcd.grant(5).unwrap_err();
        assert!(error.to_string().contains("http://127.0.0.1:1,http://127.0.0.1:2"), "{error}");
    }
}
