//! Encodes a header as canonical bytes and decodes them: big-endian numbers, strings with their length, fields in the
//! order below. Bodies are not its business.

use sha2::{Digest, Sha256};

use super::{DecodeError, Hash, Header, Hlc, Kind, LogId, Origin, Seq, VERSION, VersionVector};

/// Precedes the header when hashing, so that no other digest of this project can pass for an entry's hash.
const DOMAIN: &[u8] = b"outlive entry\0";

pub(super) fn hash(header: &[u8]) -> Hash {
    Hash(Sha256::new().chain_update(DOMAIN).chain_update(header).finalize().into())
}

pub(super) fn encode(header: &Header) -> Vec<u8> {
    let mut out = Vec::with_capacity(192);
    out.push(header.version);
    out.extend(header.log.0);
    encode_origin(&mut out, &header.origin);
    out.extend(header.seq.0.to_be_bytes());
    out.extend(header.hlc.0.to_be_bytes());
    out.extend(header.prev.0);
    out.extend(u16::try_from(header.deps.len()).unwrap_or(u16::MAX).to_be_bytes());
    for (origin, seq) in &header.deps {
        encode_origin(&mut out, origin);
        out.extend(seq.0.to_be_bytes());
    }
    out.extend(header.cause);
    out.extend(header.kind.0.to_be_bytes());
    out.extend(header.body_len.to_be_bytes());
    out.extend(header.body_hash.0);
    out
}

pub(super) fn decode(bytes: &[u8]) -> Result<Header, DecodeError> {
    let mut rest = ByteReader(bytes);
    let version = rest.u8()?;
    if version != VERSION {
        return Err(DecodeError("the header's version is not known to this node"));
    }
    let header = Header {
        version,
        log: LogId(rest.array()?),
        origin: rest.origin()?,
        seq: Seq(rest.u64()?),
        hlc: Hlc(rest.u64()?),
        prev: Hash(rest.array()?),
        deps: rest.deps()?,
        cause: rest.array()?,
        kind: Kind(rest.u16()?),
        body_len: rest.u64()?,
        body_hash: Hash(rest.array()?),
    };
    // Each header must have exactly one encoding, or equal headers could have different hashes.
    if rest.0.is_empty() && encode(&header) == bytes {
        Ok(header)
    } else {
        Err(DecodeError("the header is not in canonical form"))
    }
}

fn encode_origin(out: &mut Vec<u8>, origin: &Origin) {
    out.extend(u16::try_from(origin.node.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(origin.node.as_bytes());
    out.extend(origin.epoch.to_be_bytes());
}

struct ByteReader<'a>(&'a [u8]);

impl<'a> ByteReader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(DecodeError("the header is cut off"))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.take(N)?.try_into().map_err(|_| DecodeError("the header is cut off"))
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    fn origin(&mut self) -> Result<Origin, DecodeError> {
        let len = self.u16()?;
        let node = std::str::from_utf8(self.take(usize::from(len))?)
            .map_err(|_| DecodeError("a node's name is not UTF-8"))?;
        Ok(Origin { node: node.to_owned(), epoch: self.u32()? })
    }

    fn deps(&mut self) -> Result<VersionVector, DecodeError> {
        let count = self.u16()?;
        (0..count).map(|_| Ok((self.origin()?, Seq(self.u64()?)))).collect()
    }
}
