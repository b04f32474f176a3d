//go:build !linux

package main

import (
	"errors"
	"os"
)

// hideInput is an error: where the echo cannot be turned off, no password is asked for.
func hideInput(*os.File) (restore func(), err error) {
	return nil, errors.New("this system has no terminal that hides input")
}

// isTerminal says whether a person reads what is written to f.
func isTerminal(f *os.File) bool {
	fi, err := f.Stat()
	return err == nil && fi.Mode()&os.ModeCharDevice != 0
}
