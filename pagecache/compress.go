package pagecache

import (
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/pulkdb/db/log"
)

// A Compression says how bases are compressed in the log, where that pays. It can
// change with every Open: each base says for itself whether it is compressed.
// Deltas never are.
type Compression uint8

const (
	NotCompressed Compression = iota
	Zstd                      // the codec's default level
	ZstdFast                  // less work for a little more space
	ZstdBetter                // more work for a little less space
)

func (x Compression) level() zstd.EncoderLevel {
	switch x {
	case ZstdFast:
		return zstd.SpeedFastest
	case ZstdBetter:
		return zstd.SpeedBetterCompression
	}
	return zstd.SpeedDefault
}

const (
	// compressMin is the size in bytes below which a base is stored plain.
	compressMin = 256

	// compressMax is the size above which it is. What is longer by its own account
	// is damaged: so many bytes are taken at most to read a base of a few.
	compressMax = 64 << 20

	// compressWindow is how far back the encoder looks for repetitions. Bases are
	// much shorter but for the parts of large values.
	compressWindow = 256 << 10

	// packedBuffers is how many buffers for compressed bases are kept, of at most
	// packedBytesMax each.
	packedBuffers  = 4
	packedBytesMax = 1 << 20
)

// A codec compresses bases. All of it may be used by many goroutines at once. Its
// memory is bounded: it has an encoder for each processor, at most
// compressEncodersMax, for which the others wait, and each has 0.5 MiB (ZstdFast) to
// about 5 MiB (ZstdBetter); and packedBuffers buffers.
//
// It is never closed: Close of the cache does not wait for those who read the log,
// and a decoder that is closed under them panics. Without a stream
// encoder and decoder have no goroutines, and are the collector's.
type codec struct {
	encoder *zstd.Encoder // nil: bases are stored plain
	decoder *zstd.Decoder
	packed  chan []byte // buffers that are free
}

const compressEncodersMax = 4

func newCodec(x Compression) (codec, error) {
	var k codec
	var err error
	k.decoder, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(compressMax), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return k, fmt.Errorf("pagecache: %w", err)
	}
	if x == NotCompressed {
		return k, nil
	}
	k.encoder, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(x.level()), zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(compressWindow), zstd.WithLowerEncoderMem(true),
		zstd.WithEncoderConcurrency(min(runtime.GOMAXPROCS(0), compressEncodersMax)))
	if err != nil {
		return k, fmt.Errorf("pagecache: %w", err)
	}
	k.packed = make(chan []byte, packedBuffers)
	return k, nil
}

// compress returns the compressed form of data if it is at least an eighth
// smaller. It is to be given back to release when it has been written.
func (k *codec) compress(data []byte) ([]byte, bool) {
	if k.encoder == nil || len(data) < compressMin || len(data) > compressMax {
		return nil, false
	}
	var packed []byte
	select {
	case packed = <-k.packed:
	default:
	}
	packed = k.encoder.EncodeAll(data, slices.Grow(packed[:0], len(data)))
	if len(packed) > len(data)-len(data)/8 {
		k.keep(packed)
		return nil, false
	}
	return packed, true
}

// release gives back what compress has made for the update.
func (k *codec) release(u *log.Update) {
	if u.Compressed {
		k.keep(u.Payload)
		u.Payload = nil
	}
}

func (k *codec) keep(packed []byte) {
	if k.packed == nil || cap(packed) > packedBytesMax {
		return
	}
	select {
	case k.packed <- packed:
	default:
	}
}

var errPackedSize = errors.New("compressed base: no size, or an absurd one")

// appendDecompressed appends to dst what data was compressed from. It takes memory
// for what the frame says, which is at most compressMax, and no more.
func (k *codec) appendDecompressed(dst, data []byte) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(data); err != nil {
		return dst, fmt.Errorf("compressed base: %w", err)
	}
	if !h.HasFCS || h.Skippable || h.FrameContentSize > compressMax {
		return dst, errPackedSize
	}
	n := int(h.FrameContentSize)
	room := slices.Grow(dst, n)[: len(dst) : len(dst)+n]
	out, err := k.decoder.DecodeAll(data, room)
	if err == nil && len(out) != len(dst)+n {
		err = errPackedSize
	}
	if err != nil {
		return dst, fmt.Errorf("compressed base: %w", err)
	}
	return out, nil
}

func (c *Cache) compress(data []byte) ([]byte, bool) { return c.codec.compress(data) }

func (c *Cache) decompress(data []byte) ([]byte, error) {
	return c.codec.appendDecompressed(nil, data)
}
