# bench/real/work.pl: text and regular expressions over a file of words.
use strict;
use warnings;

my (%count, %pairs, $vowels, $swapped);
my $last = '';
open(my $in, '<', $ARGV[0]) or die "$ARGV[0]: $!";
while (my $line = <$in>) {
    last if $. > 20000;
    chomp $line;
    $vowels += () = $line =~ /[aeiou]+/g;
    for my $word (split ' ', $line) {
        $count{$word}++;
        $pairs{"$1$2"}++ if $word =~ /^([a-z])[a-z]*?([a-z])$/;
    }
    (my $copy = $line) =~ s/(\w+) (\w+)/$2 $1/g;
    $swapped += length($copy) if $copy =~ /^(?:\w+ ){3,}\w*([aeiou])\1?/;
}
my @top = sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count;
print scalar(@top), " words, $vowels runs of vowels, $swapped\n";
print join(' ', map { "$_:$count{$_}" } @top[0 .. 9]), "\n";
print join(' ', map { "$_:$pairs{$_}" } sort keys %pairs), "\n";
