package log

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/pulkdb/db/internal/vfs"
)

const (
	segmentBytesDefault = 16 << 20
	segmentBytesMin     = 1 << 10
	segmentBytesMax     = 1 << 30
	bufferBytesDefault  = 1 << 20
	bufferBytesMin      = 256
	bufferBytesMax      = 128 << 20
	buffersDefault      = 8
)

// Options say how a log is opened. Zero values mean the defaults.
type Options struct {
	// Dir is the directory of the log. It is created if absent.
	Dir string
	// FS has the files; nil: the real file system.
	FS vfs.FS
	// SegmentBytes is the size of a segment file, 1 KiB to 1 GiB; 0: 16 MiB.
	// It is fixed when the log is created: later values are ignored.
	SegmentBytes int
	// BufferBytes is the memory in which records are gathered and the limit of
	// one record, 256 B to 128 MiB and less than a segment; 0: 1 MiB.
	BufferBytes int
	// Buffers is how many buffers may wait to be written before Throttle
	// makes callers wait; 0: 8.
	Buffers int
	// FlushInterval is how often all that is complete is written and synced
	// without being asked; 0: never.
	FlushInterval time.Duration
	// Preallocate keeps a file of zeros ready for the next segment, so that a
	// sync finds no file sizes or extents to write. It costs writing every
	// new file twice; for those who wait for each sync.
	Preallocate bool
	// ReadOnly changes no file and shares the directory with other readers.
	ReadOnly bool
	// Discard keeps nothing: Dir and FS are not used, what a buffer held is
	// dropped when it is full, and everything counts as durable.
	Discard bool
	// Logger receives what recovery found and what failed; nil: nothing does.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = vfs.OS
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = segmentBytesDefault
	}
	if o.BufferBytes == 0 {
		o.BufferBytes = min(bufferBytesDefault, o.SegmentBytes/4)
	}
	if o.Buffers == 0 {
		o.Buffers = buffersDefault
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

func (o Options) validate() error {
	switch {
	case o.Dir == "" && !o.Discard:
		return fmt.Errorf("log: Options.Dir is empty")
	case o.SegmentBytes < segmentBytesMin || o.SegmentBytes > segmentBytesMax:
		return fmt.Errorf("log: Options.SegmentBytes is %d, want %d to %d", o.SegmentBytes, segmentBytesMin, segmentBytesMax)
	case o.BufferBytes < bufferBytesMin || o.BufferBytes > bufferBytesMax:
		return fmt.Errorf("log: Options.BufferBytes is %d, want %d to %d", o.BufferBytes, bufferBytesMin, bufferBytesMax)
	case o.Buffers < 1:
		return fmt.Errorf("log: Options.Buffers is %d, want at least 1", o.Buffers)
	case o.FlushInterval < 0:
		return fmt.Errorf("log: Options.FlushInterval is negative")
	}
	return nil
}
