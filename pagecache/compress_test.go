package pagecache

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
)

var compressions = []Compression{NotCompressed, Zstd, ZstdFast, ZstdBetter}

func randomBytes(n int) []byte {
	rng := rand.New(rand.NewPCG(uint64(n), 7))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func newTestCodec(t testing.TB, x Compression) *codec {
	k, err := newCodec(x)
	require.NoError(t, err)
	return &k
}

// TestDecompressAfterClose: Close closed the decoder under those who had read a page and were
// about to decompress it, or were doing so, which panics.
func TestDecompressAfterClose(t *testing.T) {
	o := quiet(vfs.NewMem(), stringPages{})
	o.Compress = Zstd
	c := mustOpen(t, o)
	want := bytes.Repeat([]byte("compress me "), 1000)
	packed, ok := c.compress(want)
	require.True(t, ok)
	require.NoError(t, c.Close())
	got, err := c.decompress(packed)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestCodec(t *testing.T) {
	sizes := map[Compression]int{}
	for _, x := range []Compression{ZstdFast, Zstd, ZstdBetter} {
		k, plain := newTestCodec(t, x), newTestCodec(t, NotCompressed)
		for _, n := range []int{compressMin, 4000, 8 << 10, 600 << 10, 3 << 20} {
			data := bytes.Repeat([]byte("some row, "), n/10+1)[:n]
			packed, ok := k.compress(data)
			require.True(t, ok, n)
			require.Less(t, len(packed), n/4)
			u := log.Update{Payload: bytes.Clone(packed), Compressed: true}
			k.release(&log.Update{Payload: packed, Compressed: true})
			out, err := plain.appendDecompressed([]byte("dst"), u.Payload)
			require.NoError(t, err)
			require.True(t, bytes.Equal(append([]byte("dst"), data...), out))

			_, ok = k.compress(randomBytes(n))
			require.False(t, ok, "%d random bytes", n)
		}
		_, ok := k.compress(make([]byte, compressMin-1))
		require.False(t, ok)
		text := mixedText(64 << 10)
		packed, _ := k.compress(text)
		t.Logf("level %d: %d bytes of %d", x, len(packed), len(text))
		sizes[x] = len(packed)
	}
	require.Less(t, sizes[ZstdBetter], min(sizes[Zstd], sizes[ZstdFast]))
	_, ok := newTestCodec(t, NotCompressed).compress(make([]byte, 4096))
	require.False(t, ok)
}

func mixedText(n int) []byte {
	rng := rand.New(rand.NewPCG(3, 4))
	var b []byte
	for len(b) < n {
		b = fmt.Appendf(b, `{"id":%d,"name":"user-%d","tags":["t%d","t%d"],"score":%.3f}`,
			rng.IntN(1e6), rng.IntN(5000), rng.IntN(40), rng.IntN(40), rng.Float64())
	}
	return b[:n]
}

// Bytes that nobody compressed are errors, and take no more memory than what a
// frame of theirs says, if that may be.
func TestDecompressHostile(t *testing.T) {
	k := newTestCodec(t, Zstd)
	data := mixedText(8 << 10)
	packed, ok := k.compress(data)
	require.True(t, ok)
	for i := range packed { // no checksum here: some changes go unnoticed, none panics
		damaged := bytes.Clone(packed)
		damaged[i] ^= 0x55
		if out, err := k.appendDecompressed(nil, damaged); err == nil {
			require.LessOrEqual(t, len(out), compressMax)
		}
		_, err := k.appendDecompressed(nil, packed[:i])
		require.Error(t, err, "cut at %d", i)
	}
	_, err := k.appendDecompressed(nil, append(bytes.Clone(packed), packed...))
	require.Error(t, err, "two frames")

	w, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	defer w.Close()
	bomb := w.EncodeAll(make([]byte, compressMax+1), nil)
	_, err = k.appendDecompressed(nil, bomb)
	require.ErrorIs(t, err, errPackedSize)
	// A frame without a size, that goes on for ever.
	var stream bytes.Buffer
	sw, err := zstd.NewWriter(&stream)
	require.NoError(t, err)
	_, err = sw.Write(make([]byte, 1<<20))
	require.NoError(t, err)
	require.NoError(t, sw.Flush())
	_, err = sw.Write(make([]byte, 1<<20))
	require.NoError(t, err)
	require.NoError(t, sw.Close())
	_, err = k.appendDecompressed(nil, stream.Bytes())
	require.Error(t, err)
}

func TestCompressAllocates(t *testing.T) {
	if invariant.Debug {
		t.Skip("debug builds allocate elsewhere")
	}
	k := newTestCodec(t, Zstd)
	data := mixedText(8 << 10)
	n := testing.AllocsPerRun(100, func() {
		packed, ok := k.compress(data)
		if !ok {
			t.Error("not compressed")
		}
		k.release(&log.Update{Payload: packed, Compressed: true})
	})
	require.Less(t, n, 1.0)
}

// A record whose checksum is right and whose compressed bytes are not is damage,
// with its place.
func TestDamagedCompressedPage(t *testing.T) {
	c := mustOpen(t, tiny(vfs.NewMem(), stringPages{}))
	defer func() { require.NoError(t, c.Close()) }()
	u := log.Update{PID: 77, Version: 1, Kind: log.KindReplace, Payload: []byte("not a frame"), Compressed: true}
	r, err := c.log.Reserve(log.Fresh, log.UpdateSize(u.PID, u.Version, len(u.Payload)))
	require.NoError(t, err)
	p := r.Append(u)
	r.Complete(5)
	_, _, err = c.readFragments(77, absence{version: 1, positions: []log.Position{p}})
	var corrupt *log.CorruptError
	require.True(t, errors.As(err, &corrupt), "%v", err)
	require.NotEmpty(t, corrupt.File)
	require.Equal(t, p.LSN, corrupt.LSN)
	_, err = c.appendFromLog(nil, p, 77, 1)
	require.True(t, errors.As(err, &corrupt), "%v", err)
}

// Pages that were written with every kind of compression are read by all.
func TestMixedCompression(t *testing.T) {
	fs := vfs.NewMem()
	want := map[PID]string{}
	for round := range 3 {
		for i, x := range compressions {
			o := tiny(fs, stringPages{})
			o.Compress = x
			c := mustOpen(t, o)
			for pid, s := range want {
				page, key, err := c.Get(pid)
				require.NoError(t, err)
				require.Equal(t, s, string(page))
				if (int(pid)+round+i)%3 == 0 {
					want[pid] = s[len(s)/2:] + "x"
					_, err = c.Set(pid, key, []byte(want[pid]))
					require.NoError(t, err)
				}
			}
			for n := range 10 {
				data := mixedText(300 + 100*n)
				if n%3 == 0 {
					data = randomBytes(300 + 100*n)
				}
				pid, _, err := c.Allocate(data)
				require.NoError(t, err)
				want[pid] = string(data)
			}
			require.NoError(t, c.Close())
		}
	}
}

func BenchmarkCompress(b *testing.B) {
	data := mixedText(8 << 10)
	for _, x := range compressions[1:] {
		b.Run(fmt.Sprint(x), func(b *testing.B) {
			k := newTestCodec(b, x)
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				packed, _ := k.compress(data)
				k.release(&log.Update{Payload: packed, Compressed: true})
			}
		})
	}
}

func BenchmarkDecompress(b *testing.B) {
	data := mixedText(8 << 10)
	k := newTestCodec(b, Zstd)
	packed, _ := k.compress(data)
	b.SetBytes(int64(len(data)))
	var out []byte
	for b.Loop() {
		out, _ = k.appendDecompressed(out[:0], packed)
	}
}
