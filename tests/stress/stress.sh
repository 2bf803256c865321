#!/bin/sh
# stress.sh STRESS SECONDS [SEED]: random guests, compared in lockstep and alone, each half of the time.
stress=$1 half=$(($2 / 2)) seed=${3:-$(date +%s)}
"$stress" --engine lockstep:bt,interp --seconds "$half" --seed "$seed"
lockstep=$?
"$stress" --engine interp --against bt --seconds "$half" --seed "$seed"
[ $? = 0 ] && [ $lockstep = 0 ]
