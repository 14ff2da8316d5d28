package log

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReserveAllocates(t *testing.T) {
	l, _ := open(t, Options{Discard: true})
	payload := make([]byte, 100)
	u := Update{PID: 5, Version: 6, Kind: KindAppend, Payload: payload}
	n := UpdateSize(u.PID, u.Version, len(payload))
	var p Position
	require.Zero(t, int(testing.AllocsPerRun(10000, func() {
		r, err := l.Reserve(Fresh, n)
		if err != nil {
			t.Fatal(err)
		}
		p = r.Append(u)
		r.Complete(9)
	})))
	buf := make([]byte, 0, 256)
	require.Zero(t, int(testing.AllocsPerRun(1000, func() {
		if _, _, err := l.Read(p, buf); err != nil {
			t.Fatal(err)
		}
		l.Account(p, true)
	})))
	require.NoError(t, l.Close())
}

func BenchmarkReserveComplete(b *testing.B) {
	for _, goroutines := range []int{1, 2} {
		b.Run(fmt.Sprint(goroutines), func(b *testing.B) {
			l, _ := open(b, Options{Discard: true})
			defer l.Close()
			u := Update{PID: 5, Version: 6, Kind: KindAppend, Payload: make([]byte, 120)}
			n := UpdateSize(u.PID, u.Version, len(u.Payload))
			b.SetBytes(int64(n))
			b.ReportAllocs()
			b.ResetTimer()
			var group sync.WaitGroup
			for range goroutines {
				group.Add(1)
				go func() {
					defer group.Done()
					for range b.N / goroutines {
						if err := l.Throttle(); err != nil {
							panic(err)
						}
						r, err := l.Reserve(Fresh, n)
						if err != nil {
							panic(err)
						}
						r.Append(u)
						r.Complete(9)
					}
				}()
			}
			group.Wait()
		})
	}
}

// BenchmarkWrite is ReserveComplete with files, and no waiting for syncs.
func BenchmarkWrite(b *testing.B) {
	l, _ := open(b, Options{Dir: b.TempDir()})
	defer l.Close()
	u := Update{PID: 5, Version: 6, Kind: KindAppend, Payload: make([]byte, 120)}
	n := UpdateSize(u.PID, u.Version, len(u.Payload))
	b.SetBytes(int64(n))
	for b.Loop() {
		if err := l.Throttle(); err != nil {
			b.Fatal(err)
		}
		r, err := l.Reserve(Fresh, n)
		if err != nil {
			b.Fatal(err)
		}
		r.Append(u)
		r.Complete(9)
	}
}

func BenchmarkWaitDurable(b *testing.B) {
	for _, goroutines := range []int{1, 8, 64} {
		b.Run(fmt.Sprint(goroutines), func(b *testing.B) {
			l, _ := open(b, Options{Dir: b.TempDir(), Preallocate: true})
			defer l.Close()
			u := Update{PID: 5, Version: 6, Kind: KindAppend, Payload: make([]byte, 120)}
			n := UpdateSize(u.PID, u.Version, len(u.Payload))
			for l.files.count() == 0 && l.metrics.bytes.Load() == 0 {
			}
			b.ResetTimer()
			var group sync.WaitGroup
			var left atomic.Int64
			left.Store(int64(b.N))
			for range goroutines {
				group.Add(1)
				go func() {
					defer group.Done()
					for left.Add(-1) >= 0 {
						r, err := l.Reserve(Fresh, n)
						if err != nil {
							panic(err)
						}
						r.Append(u)
						if err := l.WaitDurable(Fresh, r.Complete(9)); err != nil {
							panic(err)
						}
					}
				}()
			}
			group.Wait()
			b.ReportMetric(float64(b.N)/float64(l.metrics.syncs.Load()), "records/sync")
		})
	}
}
