package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// maxInput limits files read whole.
const maxInput = 64 << 20 // bytes

// readFile reads a file of at most maxInput bytes; "-" is standard input.
func readFile(cmd *cobra.Command, name string) ([]byte, error) {
	var r io.Reader = cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(b) > maxInput {
		return nil, fmt.Errorf("%s has more than %d bytes", name, maxInput)
	}
	return b, nil
}

// writeFile writes a file whole: to a temporary file, flushed, then renamed. An existing
// file is only replaced with force.
func writeFile(name string, b []byte, mode fs.FileMode, force bool) error {
	if err := mayWrite(name, force); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if e := f.Chmod(mode); err == nil {
		err = e
	}
	return finish(f, name, err)
}

func mayWrite(name string, force bool) error {
	fi, err := os.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !fi.Mode().IsRegular():
		return fmt.Errorf("%s is no ordinary file; write to a file first and copy it from there", name)
	case !force:
		return fmt.Errorf("%s exists; choose another name, or add --force to replace it", name)
	}
	return nil
}

// finish flushes a temporary file and gives it its name.
func finish(f *os.File, name string, err error) error {
	if e := f.Sync(); err == nil {
		err = e
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if d, err := os.Open(filepath.Dir(name)); err == nil {
		d.Sync() // best effort: not all systems can flush a directory
		d.Close()
	}
	return nil
}

// password finds a password: in the environment variable, in a file (first line), or by
// asking at the terminal.
func password(cmd *cobra.Command, variable, file, prompt string) (string, error) {
	if file != "" {
		b, err := readFile(cmd, file)
		if err != nil {
			return "", fmt.Errorf("password: %w", err)
		}
		line, _, _ := strings.Cut(string(b), "\n")
		return strings.TrimSuffix(line, "\r"), nil
	}
	if v, ok := os.LookupEnv(variable); ok {
		return v, nil
	}
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok {
		return "", fmt.Errorf("no password: set %s or use --password-file", variable)
	}
	restore, err := hideInput(in)
	if err != nil {
		return "", fmt.Errorf("no password, and no terminal to ask for one: set %s or use --password-file", variable)
	}
	fmt.Fprint(cmd.ErrOrStderr(), prompt)
	line, err := bufio.NewReader(in).ReadString('\n')
	restore()
	fmt.Fprintln(cmd.ErrOrStderr())
	if err != nil && line == "" {
		return "", fmt.Errorf("no password: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}
