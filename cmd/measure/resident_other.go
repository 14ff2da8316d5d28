//go:build !linux

package main

// The resident memory of the process is not known here.
func residentBytes() int64 { return 0 }
func peakBytes() int64     { return 0 }
func resetPeak()           {}
