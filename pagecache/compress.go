package pagecache

import (
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// compressMin is the size in bytes below which a base is stored plain.
const compressMin = 256

// A codec compresses bases. Both halves may be used by many goroutines at once.
type codec struct {
	encoder *zstd.Encoder // nil: bases are stored plain
	decoder *zstd.Decoder
}

func newCodec(compress bool) (codec, error) {
	var k codec
	var err error
	k.decoder, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxPayload))
	if err != nil {
		return k, fmt.Errorf("pagecache: %w", err)
	}
	if compress {
		if k.encoder, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false)); err != nil {
			return k, fmt.Errorf("pagecache: %w", err)
		}
	}
	return k, nil
}

// compress returns the compressed form of data if it is at least an eighth
// smaller.
func (c *Cache) compress(data []byte) ([]byte, bool) {
	if c.codec.encoder == nil || len(data) < compressMin {
		return nil, false
	}
	packed := c.codec.encoder.EncodeAll(data, make([]byte, 0, len(data)))
	return packed, len(packed) <= len(data)-len(data)/8
}

func (c *Cache) decompress(data []byte) ([]byte, error) { return c.appendDecompressed(nil, data) }

// appendDecompressed appends to dst what data was compressed from.
func (c *Cache) appendDecompressed(dst, data []byte) ([]byte, error) {
	out, err := c.codec.decoder.DecodeAll(data, dst)
	if err != nil {
		return dst, fmt.Errorf("compressed base: %w", err)
	}
	return out, nil
}

func (k codec) close() {
	if k.encoder != nil {
		k.encoder.Close()
	}
	k.decoder.Close()
}
