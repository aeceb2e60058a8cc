//! Requests to the Hub: redirects that never carry the token elsewhere, another try where one may help, and what to do
//! where none does.

use std::{io::Read, thread, time::Duration};

use serde::Deserialize;
use ureq::{
    Agent, Body,
    http::{Response, StatusCode, Uri},
};

use super::{
    name::{Name, is_hash, is_plain},
    settings::Settings,
};
use crate::error::Error;

/// How often a request is made.
pub const TRIES: u32 = 5;
const REDIRECTS: usize = 8;
/// No list of files is longer.
const LONGEST_LISTING: u64 = 64 << 20;
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Why a request came to nothing.
pub enum Failure {
    /// No server answered.
    Unreachable(String),
    /// It answered otherwise than was hoped.
    Refused(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unreachable(reason) => Self::bad_file("the Hub".as_ref(), format!("cannot be reached: {reason}")),
            Failure::Refused(error) => error,
        }
    }
}

/// Why one request came to nothing.
enum Missed {
    /// Another one may not.
    ForNow(String),
    ForGood(String),
}

/// The files of a commit.
#[derive(Debug, Deserialize)]
pub struct Listing {
    /// The commit.
    pub sha: String,
    #[serde(default)]
    pub siblings: Vec<Listed>,
}

/// One of them.
#[derive(Debug, Deserialize)]
pub struct Listed {
    #[serde(rename = "rfilename")]
    pub name: String,
    pub size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<Large>,
}

#[derive(Debug, Deserialize)]
struct Large {
    sha256: String,
}

impl Listed {
    /// The name of the blob: the sha256 of a large file, git's hash of a small one.
    pub fn hash(&self) -> Option<&str> {
        self.sha256().or(self.blob.as_deref().filter(|hash| is_hash(hash, 40)))
    }

    /// The sha256 of its bytes, where that is known.
    pub fn sha256(&self) -> Option<&str> {
        self.lfs.as_ref().map(|large| large.sha256.as_str()).filter(|hash| is_hash(hash, 64))
    }
}

/// One repository on the Hub.
pub struct Client<'a> {
    settings: &'a Settings,
    name: &'a Name,
    agent: Agent,
}

impl<'a> Client<'a> {
    pub fn new(settings: &'a Settings, name: &'a Name) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .user_agent(concat!("slicegpt-gpu/", env!("CARGO_PKG_VERSION")));
        Self { settings, name, agent: config.build().new_agent() }
    }

    pub fn name(&self) -> &Name {
        self.name
    }

    /// Asks which files the revision has.
    ///
    /// # Errors
    /// [`Failure::Unreachable`], and [`Failure::Refused`] with what to do.
    pub fn listing(&self) -> Result<Listing, Failure> {
        let (repository, revision) = (self.name.repository(), escaped(self.name.revision()));
        let url = format!("{}/api/models/{repository}/revision/{revision}?blobs=true", self.settings.endpoint);
        let response = self.get(&url, None, Some(self.settings.stall))?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(&response));
        }
        let mut text = Vec::new();
        let read = response.into_body().into_reader().take(LONGEST_LISTING).read_to_end(&mut text);
        read.map_err(|error| Failure::Unreachable(error.to_string()))?;
        let strange =
            |reason: String| self.bad(format!("{} answers with no list of files: {reason}", self.settings.endpoint));
        let listing: Listing = serde_json::from_slice(&text).map_err(|error| strange(error.to_string()))?;
        if !is_hash(&listing.sha, 40) {
            return Err(strange("it names no commit".into()));
        }
        if let Some(listed) =
            listing.siblings.iter().find(|listed| listed.name.contains("..") || listed.name.starts_with('/'))
        {
            return Err(strange(format!("{:?} leads out of the repository", listed.name)));
        }
        Ok(Listing {
            siblings: listing.siblings.into_iter().filter(|listed| is_plain(&listed.name)).collect(),
            ..listing
        })
    }

    /// Asks for a file of a commit, from a byte on.
    ///
    /// # Errors
    /// [`Failure::Unreachable`].
    pub fn file(&self, commit: &str, name: &str, from: u64) -> Result<Response<Body>, Failure> {
        let url = format!(
            "{}/{}/resolve/{commit}/{}",
            self.settings.endpoint,
            self.name.repository(),
            name.replace(' ', "%20")
        );
        self.get(&url, (from > 0).then_some(from), None)
    }

    /// How long a transfer may bring nothing.
    pub fn stall(&self) -> Duration {
        self.settings.stall
    }

    /// An answer, whose body comes `within` a time, if it has to.
    fn get(&self, url: &str, from: Option<u64>, within: Option<Duration>) -> Result<Response<Body>, Failure> {
        let mut reason = String::new();
        for attempt in 0..TRIES {
            match self.follow(url, from, within) {
                Ok(response) if may_pass(response.status()) => {
                    reason = format!("it answers {}", response.status());
                    self.wait(attempt, response.headers().get("retry-after").and_then(|value| value.to_str().ok()));
                }
                Ok(response) => return Ok(response),
                Err(Missed::ForNow(error)) => {
                    reason = error;
                    self.wait(attempt, None);
                }
                Err(Missed::ForGood(error)) => return Err(Failure::Unreachable(error)),
            }
        }
        Err(Failure::Unreachable(reason))
    }

    /// Waits before the next try; longer each time, or as long as the server asks for.
    pub fn wait(&self, attempt: u32, asked: Option<&str>) {
        if attempt + 1 < TRIES {
            let asked = asked.and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
            thread::sleep(asked.unwrap_or(self.settings.patience * 2u32.pow(attempt)).min(LONGEST_WAIT));
        }
    }

    /// One request, and those that it is sent on to.
    fn follow(&self, url: &str, from: Option<u64>, within: Option<Duration>) -> Result<Response<Body>, Missed> {
        let own: Uri = url.parse().map_err(|_| Missed::ForGood(format!("{url} is no address")))?;
        let mut at = own.clone();
        for _ in 0..REDIRECTS {
            let mut request = self.agent.get(at.clone()).config().timeout_recv_body(within).build();
            // To nobody else: files come from other servers, by addresses that need none.
            let home = (at.scheme(), at.authority()) == (own.scheme(), own.authority());
            if let Some(token) = self.settings.token.as_ref().filter(|_| home) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if let Some(from) = from {
                request = request.header("range", format!("bytes={from}-"));
            }
            let response = request.call().map_err(|error| match error {
                ureq::Error::BadUri(_) | ureq::Error::Http(_) => Missed::ForGood(error.to_string()),
                _ => Missed::ForNow(error.to_string()),
            })?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let target = response.headers().get("location").and_then(|value| value.to_str().ok());
            let nowhere = || Missed::ForGood("it redirects to no address".into());
            at = target.and_then(|target| joined(&at, target)).ok_or_else(nowhere)?;
        }
        Err(Missed::ForGood("it redirects in circles".into()))
    }

    fn bad(&self, reason: String) -> Failure {
        Failure::Refused(Error::bad_file(self.name.repository().as_ref(), reason))
    }

    /// What an answer means, and what to do.
    pub fn refused(&self, response: &Response<Body>) -> Failure {
        let header =
            |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (code, endpoint, repository) = (header("x-error-code"), &self.settings.endpoint, self.name.repository());
        let token =
            if self.settings.token.is_some() { "the token that is set has no access to it" } else { "no token is set" };
        self.bad(match (response.status().as_u16(), code) {
            (_, "GatedRepo") | (403, _) => format!(
                "the repository is gated, and {token}: accept its terms at {endpoint}/{repository}, then log in with \
                 `hf auth login` or set HF_TOKEN"
            ),
            (_, "RevisionNotFound") => format!("the repository has no revision {:?}", self.name.revision()),
            (401, _) | (_, "RepoNotFound") => format!(
                "no such file or directory, and no such repository at {endpoint}, or a private one, and {token}; \
                 check the name, or log in with `hf auth login` or set HF_TOKEN"
            ),
            (404, _) => format!(
                "no such file or directory, and no such repository or revision at {endpoint}; check \
                 the name"
            ),
            (status, _) => format!("{endpoint} answers {status}; try again later"),
        })
    }
}

/// Whether a request may come through at another time.
fn may_pass(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT || status.is_server_error()
}

/// A revision within an address.
fn escaped(revision: &str) -> String {
    revision.replace('/', "%2F").replace(' ', "%20").replace('+', "%2B")
}

/// Where a redirect leads.
fn joined(from: &Uri, target: &str) -> Option<Uri> {
    if target.starts_with("http://") || target.starts_with("https://") {
        return target.parse().ok();
    }
    let scheme = from.scheme_str()?;
    if let Some(elsewhere) = target.strip_prefix("//") {
        return format!("{scheme}://{elsewhere}").parse().ok();
    }
    let path = target.strip_prefix('/')?;
    format!("{scheme}://{}/{path}", from.authority()?).parse().ok()
}
