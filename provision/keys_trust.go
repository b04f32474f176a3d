package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"armarium/daemon/keystore"
)

func keysTrustCommand() *cobra.Command {
	var out, format, pass string
	var force bool
	c := &cobra.Command{
		Use:   "trust FILE... -o FILE",
		Short: "Make the keystore of certificates that nodes trust",
		Long: `Puts the certificates of PEM files and keystores together into one keystore, for a network's
org.lockss.plugin.keystore.location. Its password only guards against damage and is no secret; classic
networks use "password".`,
		Example: `  armarium keys trust alice-lockss.cer bob-lockss.cer -o lockss.keystore
  armarium keys trust old.keystore carol-lockss.cer -o lockss.keystore --force`,
		Args: args(1, -1, "one or more certificates or keystores"),
		RunE: func(cmd *cobra.Command, files []string) error {
			if out == "" {
				return usagef("say with -o which file to write")
			}
			var all []keystore.Entry
			names := map[string]bool{}
			prints := map[string]bool{}
			for _, f := range files {
				b, err := readFile(cmd, f)
				if err != nil {
					return err
				}
				t, err := keystore.ParseTrust(b, "")
				if err != nil {
					if t, err = keystore.ParseTrust(b, pass); err != nil {
						return fmt.Errorf("%s: %w", f, err)
					}
				}
				for _, e := range t.Entries() {
					if prints[keystore.Fingerprint(e.Cert)] {
						continue
					}
					prints[keystore.Fingerprint(e.Cert)] = true
					if e.Alias == "" {
						e.Alias = strings.ToLower(strings.TrimSuffix(filepath.Base(f), filepath.Ext(f)))
					}
					for base, n := e.Alias, 2; names[e.Alias]; n++ {
						e.Alias = fmt.Sprintf("%s-%d", base, n)
					}
					names[e.Alias] = true
					all = append(all, e)
				}
			}
			if len(all) == 0 {
				return fmt.Errorf("no trusted certificate in %s", strings.Join(files, ", "))
			}
			var b []byte
			var err error
			switch format {
			case "jks":
				b, err = keystore.EncodeTrustJKS(all, pass, newest(all))
			case "pkcs12":
				b, err = keystore.EncodeTrustPKCS12(all, pass)
			case "pem":
				b = keystore.EncodeTrustPEM(all)
			default:
				return usagef("--format %q: use jks, pkcs12 or pem", format)
			}
			if err != nil {
				return err
			}
			if err := writeFile(out, b, 0o644, force); err != nil {
				return err
			}
			for _, e := range all {
				fmt.Fprintf(cmd.OutOrStdout(), "%-24s %s until %s\n  %s\n", e.Alias, e.Cert.Subject, e.Cert.NotAfter.Format(time.DateOnly), keystore.Fingerprint(e.Cert))
			}
			return nil
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "", "keystore to write")
	c.Flags().StringVar(&format, "format", "jks", "jks (for all nodes), pkcs12 or pem")
	c.Flags().StringVar(&pass, "password", "password", "password of the keystore; no secret")
	c.Flags().BoolVar(&force, "force", false, "replace an existing file")
	return c
}

// newest stands as the creation time of entries, so that equal certificates give equal bytes.
func newest(es []keystore.Entry) time.Time {
	var t time.Time
	for _, e := range es {
		if e.Cert.NotBefore.After(t) {
			t = e.Cert.NotBefore
		}
	}
	return t
}
