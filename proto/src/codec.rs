//! How messages become bytes: as protobuf, in buffers that fit them.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// What a buffer holds before it grows, in bytes: a report or a command of some listeners.
const BUFFER: usize = 512;

/// A buffer that holds so much is sent before more is put into it, as by default.
const YIELD_AT: usize = 32 * 1024;

/// tonic's own codec but for its buffers. Every stream keeps two of them for as long as it lives, by default 8 KiB each,
/// which is more than all else that the control plane knows of a filter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProstCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for ProstCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for ProstCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(BUFFER, YIELD_AT))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER, YIELD_AT))
    }
}
