//! Whether the resolver validated what it has of a name.
//!
//! Owns: one question by hand. The library sets neither the AD nor the DO bit unless it validates by itself, for which it
//! would bring a cryptographic library of its own; the resolver that was named has done that work already, and says so in the
//! AD bit to whoever sets it (RFC 6840 sections 5.7 and 5.8).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_resolver::proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::RecordType;
use mailsteer_core::signal::dns::Reply;
use tokio::net::UdpSocket;

use super::{PATIENCE, Resolver, TRIES, absolute};

/// An answer of UDP without EDNS has no more.
const LARGEST: usize = 4096;

impl Resolver {
    /// Whether it did; a zone need not begin at the name, since what is not there is proven too.
    pub(super) async fn validated(&self, name: &str) -> Reply {
        let mut last = String::new();
        for _ in 0..TRIES {
            match tokio::time::timeout(PATIENCE, ask(self.server, name)).await {
                Ok(Ok(reply)) => return reply,
                Ok(Err(why)) => last = why,
                Err(_) => last = format!("nothing within {} s", PATIENCE.as_secs()),
            }
        }
        Reply::Failed(last)
    }
}

async fn ask(server: SocketAddr, name: &str) -> Result<Reply, String> {
    let words = |error: std::io::Error| error.to_string();
    let id = fastrand::u16(..);
    let query = Query::query(absolute(name)?, RecordType::SOA);
    let mut question = Message::new(id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.metadata.authentic_data = true;
    question.add_query(query.clone());
    let question = question.to_vec().map_err(|error| error.to_string())?;
    let any = match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await.map_err(words)?;
    socket.connect(server).await.map_err(words)?;
    socket.send(&question).await.map_err(words)?;
    let mut buffer = [0; LARGEST];
    loop {
        let length = socket.recv(&mut buffer).await.map_err(words)?;
        let Ok(answer) = Message::from_vec(&buffer[..length]) else { continue };
        if answer.metadata.id != id || answer.queries.first() != Some(&query) {
            continue;
        }
        return Ok(match answer.metadata.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => {
                Reply::Validated(answer.metadata.authentic_data)
            }
            code => Reply::Failed(code.to_string()),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A resolver that first answers somebody else's question, then this one.
    async fn answering(code: ResponseCode, validated: bool) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; LARGEST];
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..length]).unwrap();
            assert!(question.metadata.authentic_data && question.metadata.recursion_desired);
            for (id, validated) in
                [(question.metadata.id.wrapping_add(1), !validated), (question.metadata.id, validated)]
            {
                let mut answer = Message::response(id, OpCode::Query);
                answer.metadata.authentic_data = validated;
                answer.metadata.response_code = code;
                answer.add_query(question.queries[0].clone());
                socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        });
        at
    }

    #[tokio::test]
    async fn the_bit_of_the_answer_to_this_question_counts() {
        for validated in [true, false] {
            for code in [ResponseCode::NoError, ResponseCode::NXDomain] {
                let said = ask(answering(code, validated).await, "example.com").await;
                assert_eq!(said, Ok(Reply::Validated(validated)));
            }
        }
        let forged = ask(answering(ResponseCode::ServFail, false).await, "").await;
        assert!(matches!(forged, Ok(Reply::Failed(_))), "{forged:?}");
    }
}
