package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"armarium/daemon/plugin"
)

func verifyCommand() *cobra.Command {
	var store, passFile string
	var strict, refuseExpired bool
	c := &cobra.Command{
		Use:   "verify FILE.jar... --keystore FILE",
		Short: "Judge archives as a node would",
		Long: `Tells for each archive who signed it, whether a node with this keystore would accept it and why, which
plugins are in it, and what of them this software or a classic node could not use. The exit code is 1 if
any archive would not be accepted or holds a plugin that does not load.`,
		Example: `  armarium plugin verify ExamplePlugin.jar --keystore lockss.keystore
  armarium plugin verify registry/*.jar --keystore trusted.pem --strict`,
		Args: args(1, -1, "one or more archives"),
		RunE: func(cmd *cobra.Command, files []string) error {
			if store == "" {
				return usagef("say with --keystore whom the nodes trust")
			}
			trust, err := openTrust(cmd, store, passFile)
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			bad := 0
			for i, name := range files {
				if i > 0 {
					fmt.Fprintln(w)
				}
				b, err := readFile(cmd, name)
				if err != nil {
					return err
				}
				r := plugin.VerifyJar(b, trust, plugin.JarOptions{AcceptExpired: !refuseExpired, Strict: strict})
				if r.Err == nil {
					fmt.Fprintf(w, "%s: ACCEPTED: %s\n", name, r.Jar.Trusted)
				} else {
					fmt.Fprintf(w, "%s: REFUSED: %v\n", name, r.Err)
				}
				if r.Err != nil || r.Jar != nil && len(r.Jar.Failures) > 0 {
					bad++
				}
				for _, s := range r.Signers {
					fmt.Fprintf(w, "signer        %s (%s)\n  file        %s, signs %d files\n  SHA-256     %s\n  valid       %s to %s\n", s.Subject, s.Algorithm,
						s.File, s.Files, s.Fingerprint, s.NotBefore.Format(time.DateOnly), s.NotAfter.Format(time.DateOnly))
					if s.Weak != "" {
						fmt.Fprintf(w, "  warning     %s\n", s.Weak)
					}
				}
				if r.Jar == nil {
					continue
				}
				for _, d := range r.Jar.Definitions {
					describe(w, d)
				}
				for _, f := range r.Jar.Failures {
					fmt.Fprintf(w, "not loaded    %v\n", f)
				}
				for _, x := range r.Jar.Warnings {
					fmt.Fprintf(w, "warning       %s\n", x)
				}
			}
			if bad > 0 {
				return errors.New(plural(bad, "archive would", "archives would") + " not be used in full")
			}
			return nil
		},
	}
	c.Flags().StringVar(&store, "keystore", "", "JKS, PKCS#12 or PEM file with the trusted certificates")
	c.Flags().StringVar(&passFile, "password-file", "", "file whose first line is the password of the keystore")
	c.Flags().BoolVar(&strict, "strict", false, "refuse SHA-1 and DSA below 2048 bits, as nodes on recent Java do")
	c.Flags().BoolVar(&refuseExpired, "refuse-expired", false, "refuse signers whose certificate has expired")
	return c
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
