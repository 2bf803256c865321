# bench/real/openssl.sh: digests, a cipher, key derivation and large numbers, over a file of words.
set -e
openssl dgst -sha256 text text text text text text text text text text text text
openssl dgst -sha512 text text text text
openssl dgst -md5 text text text text
openssl enc -aes-256-cbc -pbkdf2 -iter 100000 -S 0123456789abcdef -k secret -in text -out /tmp/text.aes
openssl enc -d -aes-256-cbc -pbkdf2 -iter 100000 -S 0123456789abcdef -k secret -in /tmp/text.aes | cmp - text
openssl enc -chacha20 -K 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff -iv 01020304050607080910111213141516 \
    -in text | openssl dgst -sha3-256
openssl prime -checks 40 -hex 1FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF
